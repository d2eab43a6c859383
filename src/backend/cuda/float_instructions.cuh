// Instructions on floats that C++ has no name for, each in one function. All exist from sm_80 on.
#pragma once

#include <cuda_runtime.h>

namespace quest::cuda {

/// 2^x to two units in the last place; 0 where the result is below the smallest normal number.
__device__ inline float fast_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// 1 / x to one unit in the last place; 0 where the result is below the smallest normal number.
__device__ inline float fast_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// The lesser and the larger of the upper, and of the lower halves, which are not negative and
/// below 0x7c00: as floats of 16 bits.
__device__ inline unsigned lesser_halves(unsigned a, unsigned b) {
  unsigned result;
  asm("min.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}
__device__ inline unsigned larger_halves(unsigned a, unsigned b) {
  unsigned result;
  asm("max.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

/// The larger; NaN where either is.
__device__ inline float larger_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

/// The square root to one unit in the last place; of 0 for what is below the smallest normal
/// number.
__device__ inline float fast_sqrt(float x) {
  float result;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// Both rounded to bf16, to nearest even; `low` is the lower half.
__device__ inline unsigned bf16_pair(float low, float high) {
  unsigned result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

}  // namespace quest::cuda
