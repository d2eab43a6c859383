// CudaBackend: the product of one row with packed weights, its quantization included.
#include <algorithm>

#include "backend/cuda/packed_launch.h"
#include "backend/cuda/packed_row_kernels.cuh"
#include "backend/cuda/products.h"
#include "backend/cuda/quantize_launch.h"
#include "core/division.h"

namespace quest {
namespace {

// run(vectors) for a source of type T whose tensors suit them; else false.
template <typename T, typename Run>
bool with_vectors_of(const RowSource& source, const cuda::RowRule& rule, const Run& run) {
  using cuda::suits_vectors;
  const auto rows = [](const Tensor& x) {
    return cuda::TypedRows<T>{cuda::data_of<T>(x), x.row_stride};
  };
  if (const auto* norm = std::get_if<RowSource::Norm>(&source.made_of)) {
    if (!suits_vectors(rule, norm->x, norm->weight)) return false;
    return run(
        cuda::NormVectors<cuda::kIsBf16<T>>{{cuda::data_of<float>(norm->x), norm->x.row_stride},
                                            cuda::data_of<float>(norm->weight),
                                            cuda::data_of<float>(norm->rstd),
                                            norm->epsilon});
  }
  if (const auto* swiglu = std::get_if<RowSource::Swiglu>(&source.made_of)) {
    const DType type = source.x.dtype;
    const bool one_type = swiglu->gate.dtype == type && swiglu->up.dtype == type;
    if (!one_type || !suits_vectors(rule, swiglu->gate, swiglu->up)) return false;
    return run(cuda::SwigluVectors<T>{rows(swiglu->gate), rows(swiglu->up)});
  }
  return suits_vectors(rule, source.x) && run(cuda::PlainVectors<T>{rows(source.x)});
}

template <typename Run>
bool with_vectors(const RowSource& source, const cuda::RowRule& rule, const Run& run) {
  return source.x.dtype == DType::kBF16 ? with_vectors_of<std::uint16_t>(source, rule, run)
                                        : with_vectors_of<float>(source, rule, run);
}

}  // namespace

void CudaBackend::quantize_packed_matmul(Tensor y, const QuantizedRows& rows,
                                         const RowSource& source, const RowQuantizer& quantizer,
                                         int x_bits, const PackedRows& w, Write write) {
  const cuda::RowRule rule = cuda::rule_of(quantizer, w.columns);
  cuda::WriteQuantized sum =
      cuda::quantized_output(y, rows, w.steps, w.code_sums, w.columns, write);
  sum.code_offset = 1u << (w.bits - 1);  // Packed codes are unsigned.
  const cuda::DecodeFactors factors{
      .x = nullptr,
      .w = cuda::data_of<std::uint8_t>(w.codes),
      .x_stride = 0,
      .w_stride = w.codes.row_stride,
      .columns = w.codes.rows(),
      .rows = 1,
      .rows_a_block = 1,
      .chunks = static_cast<int>(w.codes.cols() / std::int64_t{cuda::kPackedLoad})};
  // Two blocks a multiprocessor: each quantizes the row.
  const unsigned all = blocks_of(factors.columns, cuda::kDecodeColumns);
  const unsigned tiles = std::clamp(blocks_of(all, std::int64_t{2} * device_.multiprocessors), 1u,
                                    unsigned{cuda::kMostTiles});
  const auto run = [&]<typename Source>(const Source& vectors) {
    Launch how = on("quantize_packed_matmul", dim3(blocks_of(all, tiles)),
                    cuda::threads_of<Source, cuda::kFewHeld<Source>>(rule));
    how.shared_bytes = static_cast<int>(round_up(factors.chunks, 4)) * (128 / w.bits);
    return cuda::with_loaded_bits(w.bits, [&]<int kBits>(std::integral_constant<int, kBits>) {
      launch(how, cuda::packed_row_kernel<kBits, Source>, vectors, rule, factors,
             static_cast<int>(tiles), sum);
    });
  };
  const bool suits =
      y.rows() == 1 && !rows.mask && cuda::loads_are_whole(w) && w.columns <= cuda::kMostRowColumns;
  if (suits && with_vectors(source, rule, run)) return;
  Backend::quantize_packed_matmul(y, rows, source, quantizer, x_bits, w, write);
}

}  // namespace quest
