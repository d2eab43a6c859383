// src/backend/cuda/float_instructions.cuh on the host: the same functions, for g++; see there.
#pragma once

#include <cmath>

#include "core/bfloat16.h"

namespace quest::cuda {

inline float fast_exp2(float x) {
  const float result = std::exp2(x);
  return result < 0x1p-126f ? 0.0f : result;
}

inline float fast_reciprocal(float x) {
  const float result = 1.0f / x;
  return std::abs(result) < 0x1p-126f ? std::copysign(0.0f, x) : result;
}

inline unsigned bf16_pair(float low, float high) {
  return to_bfloat16(low).bits | unsigned{to_bfloat16(high).bits} << 16;
}

}  // namespace quest::cuda
