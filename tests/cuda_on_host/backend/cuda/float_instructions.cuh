// src/backend/cuda/float_instructions.cuh on the host: the same functions, for g++; see there.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdlib>

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

namespace on_host {

// Halves are ordered as whole numbers where they are not negative and finite.
template <typename Choose>
unsigned choose_halves(unsigned a, unsigned b, const Choose& choose) {
  const auto half = [&](int shift) {
    const unsigned x = a >> shift & 0xffffu, y = b >> shift & 0xffffu;
    if (x >= 0x7c00u || y >= 0x7c00u) std::abort();
    return choose(x, y) << shift;
  };
  return half(0) | half(16);
}

}  // namespace on_host

inline unsigned lesser_halves(unsigned a, unsigned b) {
  return on_host::choose_halves(a, b, [](unsigned x, unsigned y) { return x < y ? x : y; });
}
inline unsigned larger_halves(unsigned a, unsigned b) {
  return on_host::choose_halves(a, b, [](unsigned x, unsigned y) { return x < y ? y : x; });
}

inline float larger_or_nan(float a, float b) {
  return std::isnan(a) || std::isnan(b) ? __uint_as_float(0x7fffffffu) : std::fmax(a, b);
}

inline float fast_sqrt(float x) { return std::sqrt(std::fabs(x) < 0x1p-126f ? 0.0f : x); }

inline unsigned bf16_pair(float low, float high) {
  return to_bfloat16(low).bits | unsigned{to_bfloat16(high).bits} << 16;
}

}  // namespace quest::cuda
