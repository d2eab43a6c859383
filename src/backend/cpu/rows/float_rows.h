// Rows of tensors for the float kernels, and the cast of a whole tensor.
#pragma once

#include <cassert>

#include "backend/cpu/parallel.h"
#include "backend/cpu/rows/float_kernels.h"
#include "core/tensor.h"

namespace quest {

/// Bytes below which another thread does not pay for a kernel that only moves memory.
constexpr std::int64_t kGrainBytes = 1 << 16;

/// Row r of a float tensor, from column `column` on.
inline Floats row_of(const Tensor& tensor, std::int64_t r, std::int64_t column = 0) {
  assert(tensor.dtype == DType::kF32 || tensor.dtype == DType::kBF16);
  const bool is_bf16 = tensor.dtype == DType::kBF16;
  const std::int64_t offset = (r * tensor.row_stride + column) * (is_bf16 ? 2 : 4);
  return {static_cast<char*>(tensor.data) + offset, is_bf16};
}

/// How many rows of `cols` values are worth a thread.
inline std::int64_t row_grain(std::int64_t cols) {
  return std::max<std::int64_t>(1, kGrainBytes / (4 * std::max<std::int64_t>(cols, 1)));
}

/// Calls body(r) for every row of [0, rows) of `cols` values, on up to `threads` threads.
template <typename Body>
void for_each_row(int threads, std::int64_t rows, std::int64_t cols, const Body& body) {
  parallel_for(threads, rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) body(r);
  });
}

/// dst = src, float to float; either may be a column slice.
inline void cast_rows(const FloatKernels& kernels, Tensor dst, Tensor src, int threads) {
  assert(dst.shape == src.shape);
  if (dst.is_contiguous() && src.is_contiguous()) {
    const Tensor flat_dst = dst.reshaped({1, dst.numel()}),
                 flat_src = src.reshaped({1, src.numel()});
    parallel_for(
        threads, dst.numel(), row_grain(1), [&](std::int64_t begin, std::int64_t end, int) {
          kernels.cast(row_of(flat_dst, 0, begin), row_of(flat_src, 0, begin), end - begin);
        });
    return;
  }
  for_each_row(threads, dst.rows(), dst.cols(),
               [&](std::int64_t r) { kernels.cast(row_of(dst, r), row_of(src, r), dst.cols()); });
}

/// y[i, j + c] (= or +=) values[c].
inline void put_row(Tensor y, std::int64_t i, std::int64_t j, const float* values,
                    std::int64_t count, Write write) {
  const bool adds = write == Write::kAdd;
  if (y.dtype == DType::kBF16) {
    BFloat16* const to = y.row<BFloat16>(i) + j;
    for (std::int64_t c = 0; c < count; ++c) {
      to[c] = to_bfloat16(adds ? to_float(to[c]) + values[c] : values[c]);
    }
  } else {
    float* const to = y.row<float>(i) + j;
    for (std::int64_t c = 0; c < count; ++c) to[c] = adds ? to[c] + values[c] : values[c];
  }
}

}  // namespace quest
