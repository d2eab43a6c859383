// src/backend/cuda/float_instructions.cuh on the host: the same functions, for g++; see there.
#pragma once

#include <cmath>

#include "core/bfloat16.h"

namespace quest::cuda {

inline float fast_exp2(float x) {
  const float result = std::exp2(x);
  return result < 0x1p-126f ? 0.0f : result;
}

inline float fast_sqrt(float x) { return std::sqrt(std::fabs(x) < 0x1p-126f ? 0.0f : x); }

inline unsigned bf16_pair(float low, float high) {
  return to_bfloat16(low).bits | unsigned{to_bfloat16(high).bits} << 16;
}

}  // namespace quest::cuda
