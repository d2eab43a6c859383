// CpuBackend: dense products.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/rows/float_rows.h"
#include "backend/cpu/tiles/tile_product.h"
#include "core/division.h"

namespace quest {
namespace {

/// Multiplications below which a thread of its own does not pay.
constexpr std::int64_t kProductsPerThread = 1 << 16;
/// Rows of x up to which each meets every row of w where it lies, alone: what it gives does not
/// depend on the others.
constexpr std::int64_t kFewRows = 16;
/// Rows of w at a time, while the rows of x pass by.
constexpr std::int64_t kWeightRows = 64;
/// Rows of x that meet a row of w at once.
constexpr std::int64_t kRowsAtOnce = 4;
/// Rows of w that are brought into the type of x at a time.
constexpr std::int64_t kCastRows = 256;

}  // namespace

void CpuBackend::multiply_rows(const ProductOutput& out, Tensor x, Tensor w) {
  if (x.rows() > kFewRows) {
    if (const Bf16TileKernels* const tiles = bf16_tiles(isa_, x.dtype, x.rows())) {
      return multiply_tiles(
          {workspace_, threads_, *tiles},
          {first_rows_source(*tiles, x), rows_source(w, tiles->pack_transposed), out});
    }
    products_.multiply(out.y, {x}, {w, true}, out.write, workspace_);
  } else {
    multiply_by_dots(out.y, x, w, out.write);
  }
  out.wrote_all(threads_);
}

void CpuBackend::matmul(Tensor y, Tensor x, Tensor w, Write write) {
  multiply_rows({y, write}, x, w);
}

void CpuBackend::matmul_rope(Tensor y, Tensor x, Tensor w, const Rotary& rotary) {
  const RotaryEnd end{rotary, float_kernels_};
  multiply_rows({y, Write::kSet, &end}, x, w);
}

void CpuBackend::stored_matmul(Tensor y, Tensor x, Tensor w, Write write) {
  if (w.dtype == x.dtype) return matmul(y, x, w, write);
  if (x.rows() <= kFewRows) return multiply_by_dots(y, x, w, write);
  const Tensor cast = workspace_.tensor(Workspace::Slot::kPackedRows,
                                        {std::min(w.rows(), kCastRows), w.cols()}, x.dtype);
  for (std::int64_t j = 0; j < w.rows(); j += kCastRows) {
    const std::int64_t count = std::min(kCastRows, w.rows() - j);
    const Tensor part = cast.rows_slice(0, count);
    cast_rows(float_kernels_, part, w.rows_slice(j, j + count), threads_);
    matmul(y.columns(j, j + count), x, part, write);
  }
}

void CpuBackend::multiply_by_dots(Tensor y, Tensor x, Tensor w, Write write) {
  if (y.numel() == 0) return;
  const std::int64_t m = x.rows(), n = w.rows(), k = w.cols();
  const Tensor inputs = workspace_.tensor(Workspace::Slot::kWideA, {m, k}, DType::kF32);
  cast_rows(float_kernels_, inputs, x, threads_);
  const std::int64_t grain = divide_up(kProductsPerThread, kWeightRows * m * k + 1);
  parallel_for(threads_, divide_up(n, kWeightRows), grain,
               [&](std::int64_t begin, std::int64_t end, int) {
                 float sums[kRowsAtOnce * kWeightRows];
                 for (std::int64_t block = begin; block < end; ++block) {
                   const std::int64_t j = block * kWeightRows;
                   const std::int64_t count = std::min(kWeightRows, n - j);
                   for (std::int64_t i = 0; i < m; i += kRowsAtOnce) {
                     const std::int64_t rows = std::min(kRowsAtOnce, m - i);
                     float_kernels_.dot_rows(sums, kWeightRows, inputs.row<float>(i), rows,
                                             row_of(w, j), w.row_stride, count, k);
                     for (std::int64_t r = 0; r < rows; ++r) {
                       put_row(y, i + r, j, sums + r * kWeightRows, count, write);
                     }
                   }
                 }
               });
}

void CpuBackend::matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) {
  if (const Bf16TileKernels* const tiles = bf16_tiles(isa_, d_y.dtype, d_y.rows())) {
    return multiply_tiles(
        {workspace_, threads_, *tiles},
        {first_rows_source(*tiles, d_y), columns_source(w, tiles->pack_pairs), {d_x, write}});
  }
  products_.multiply(d_x, {d_y}, {w}, write, workspace_);
}

void CpuBackend::matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) {
  if (const Bf16TileKernels* const tiles = bf16_tiles(isa_, d_y.dtype, d_y.cols())) {
    return multiply_tiles({workspace_, threads_, *tiles}, {columns_source(d_y, tiles->pack_columns),
                                                           columns_source(x, tiles->pack_pairs),
                                                           {d_w, write}});
  }
  products_.multiply(d_w, {d_y, true}, {x}, write, workspace_);
}

}  // namespace quest
