// CudaBackend: the product of one row with packed weights, its quantization included.
#include <algorithm>

#include "backend/cuda/packed_launch.h"
#include "backend/cuda/packed_row_kernels.cuh"
#include "backend/cuda/products.h"
#include "backend/cuda/quantize_launch.h"
#include "core/division.h"

namespace quest {
namespace {

// More than that would not stay in the second-level cache until it is read.
constexpr std::int64_t kMostFetched = 16 << 20;

// What a grid of so many blocks fetches of the weights that follow w.
cuda::NextWeights weights_after(const PackedRows& w, unsigned blocks) {
  const Tensor& codes = w.next_codes;
  if (!codes || !codes.is_contiguous() || !cuda::rows_begin_at(codes, cuda::kPackedLoad)) return {};
  const std::int64_t bytes = std::min(codes.numel() / 16 * 16, kMostFetched);
  return {cuda::data_of<std::uint8_t>(codes),
          static_cast<unsigned>(round_up(divide_up(bytes, blocks), 16)), bytes};
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
  const unsigned all = blocks_of(factors.columns, cuda::kDecodeColumns);
  const auto run = [&]<typename Source>(const Source& vectors) {
    const unsigned threads = cuda::threads_of<Source, cuda::kFewHeld<Source>>(rule);
    // Each block quantizes the row, so there are no more than run at once, if tiles suffice.
    const std::int64_t at_once =
        device_.multiprocessors * std::int64_t{cuda::row_blocks_at_once(threads)};
    const unsigned rounds = std::max(1u, blocks_of(all, cuda::kMostTiles * at_once));
    const unsigned tiles = std::max(1u, blocks_of(all, rounds * at_once));
    Launch how = on("quantize_packed_matmul", dim3(blocks_of(all, tiles)), threads);
    how.shared_bytes = static_cast<int>(round_up(factors.chunks, 4)) * (128 / w.bits);
    return cuda::with_loaded_bits(w.bits, [&]<int kBits>(std::integral_constant<int, kBits>) {
      launch(how, cuda::packed_row_kernel<kBits, Source>, vectors, rule, factors,
             static_cast<int>(tiles), weights_after(w, how.grid.x), sum);
    });
  };
  const bool suits =
      y.rows() == 1 && !rows.mask && cuda::loads_are_whole(w) && w.columns <= cuda::kMostRowColumns;
  if (suits && cuda::with_vectors(source, rule, run)) return;
  Backend::quantize_packed_matmul(y, rows, source, quantizer, x_bits, w, write);
}

}  // namespace quest
