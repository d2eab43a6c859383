// CpuBackend: gradients through the integer product, as dense products of expanded codes.
#include <algorithm>
#include <cassert>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/tiles/tile_product.h"

namespace quest {
namespace {

/// Bytes of scratch memory that one operand may take when its rows can be taken in chunks.
constexpr std::int64_t kChunkBytes = 32 << 20;
constexpr std::int64_t kElementsPerThread = 1 << 15;

std::int64_t row_grain(std::int64_t columns) {
  return std::max<std::int64_t>(1, kElementsPerThread / std::max<std::int64_t>(columns, 1));
}

/// Rows of at most `columns` values that fit the chunk.
std::int64_t chunk_rows(std::int64_t columns, DType dtype) {
  const std::int64_t row_bytes = columns * static_cast<std::int64_t>(size_bytes(dtype));
  return std::max<std::int64_t>(1, kChunkBytes / row_bytes);
}

/// out = (codes + 1/2) step.
void expand(const QuantKernels& kernels, int threads, Tensor out, Tensor codes,
            const float* steps) {
  parallel_for(threads, codes.rows(), row_grain(codes.cols()),
               [&](std::int64_t begin, std::int64_t end, int) {
                 for (std::int64_t r = begin; r < end; ++r) {
                   const FloatRow row = out.dtype == DType::kBF16
                                            ? FloatRow{out.row<BFloat16>(r), true}
                                            : FloatRow{out.row<float>(r), false};
                   kernels.dequantize_row({row, false, nullptr}, codes.row<std::int8_t>(r),
                                          steps[r], codes.cols(), 1);
                 }
               });
}

}  // namespace

// Codes become values in the type of d_y, which bf16 rounds once: where there are tiles, as they
// are packed, else in memory.
void CpuBackend::quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                             Write write) {
  const QuantKernels& kernels = quant_kernels(isa_);
  const std::int64_t n = w.codes.rows();
  assert(d_y.cols() == n && d_z.cols() == w.codes.cols() && d_z.rows() == d_y.rows());
  if (const Bf16TileKernels* const tiles = bf16_tiles(isa_, d_y.dtype, d_y.rows())) {
    TileSource values = columns_source(w.codes, tiles->pack_pairs_codes);
    values.steps = w.steps.as<float>();
    values.bits = w.bits;
    multiply_tiles({workspace_, threads_, *tiles},
                   {first_rows_source(*tiles, d_y), values, {d_z, write}});
    return;
  }
  const Tensor values =
      workspace_.tensor(Workspace::Slot::kOperandB, {n, w.codes.cols()}, d_y.dtype);
  expand(kernels, threads_, values, w.codes, w.steps.as<float>());
  matmul_grad_input(d_z, d_y, values, write);
}

void CpuBackend::quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                              Write write) {
  const QuantKernels& kernels = quant_kernels(isa_);
  const std::int64_t k = x.codes.cols();
  assert(d_y.rows() == x.codes.rows() && d_z.rows() == d_y.cols() && d_z.cols() == k);
  if (const Bf16TileKernels* const tiles = bf16_tiles(isa_, d_y.dtype, d_y.cols())) {
    TileSource values = columns_source(x.codes, tiles->pack_pairs_codes);
    values.steps = x.steps.as<float>();
    values.bits = x.bits;
    multiply_tiles({workspace_, threads_, *tiles},
                   {columns_source(d_y, tiles->pack_columns), values, {d_z, write}});
    return;
  }
  const float* const steps = x.steps.as<float>();
  const std::int64_t most = std::min(d_y.rows(), chunk_rows(k, d_y.dtype));
  const Tensor value_scratch = workspace_.tensor(Workspace::Slot::kOperandB, {most, k}, d_y.dtype);
  for (std::int64_t first = 0; first < d_y.rows(); first += most) {
    const std::int64_t last = std::min(first + most, d_y.rows());
    const Tensor values = value_scratch.rows_slice(0, last - first);
    expand(kernels, threads_, values, x.codes.rows_slice(first, last), steps + first);
    matmul_grad_weight(d_z, d_y.rows_slice(first, last), values, first == 0 ? write : Write::kAdd);
  }
}

}  // namespace quest
