// Reading and writing of float tensors whose type is known at run time only.
#pragma once

#include <cassert>

#include "core/tensor.h"

namespace quest {

/// Element (r, c) of an f32 or bf16 tensor.
inline double load(const Tensor& tensor, std::int64_t r, std::int64_t c) {
  if (tensor.dtype == DType::kF32) return tensor.row<float>(r)[c];
  assert(tensor.dtype == DType::kBF16);
  return to_float(tensor.row<BFloat16>(r)[c]);
}

/// Sets element (r, c), rounding to the tensor's type.
inline void store(const Tensor& tensor, std::int64_t r, std::int64_t c, double value) {
  if (tensor.dtype == DType::kF32) {
    tensor.row<float>(r)[c] = static_cast<float>(value);
  } else {
    assert(tensor.dtype == DType::kBF16);
    tensor.row<BFloat16>(r)[c] = to_bfloat16(static_cast<float>(value));
  }
}

}  // namespace quest
