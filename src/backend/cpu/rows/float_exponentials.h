// Exponentials of Vec, and the sigmoid made of them.
//
// For files compiled for one instruction set; everything has internal linkage.
#pragma once

#include "backend/cpu/rows/float_simd.h"

namespace quest {
namespace {

/// e^x to 1 unit in the last place, for x in [-87, 88]; below, its value at -87. NaN stays NaN.
/// `rounded`: x is a difference, off by up to 2^-24 of itself, and e^x may be off by a tenth of
/// what that changes more.
template <bool rounded = false>
QUEST_INLINE Vec exponential_below_88(Vec x) {
  x = max(splat(-87.0f), x);
  // x = n log 2 + r with |r| <= log(2) / 2; adding 1.5 * 2^23 rounds to an integer. With the bias
  // of an exponent, the low bits of the sum are those of 2^n.
  constexpr float kInteger = 12582912.0f + 127.0f;
  const Vec shifted = fma(x, splat(1.44269504f), splat(kInteger));
  const Vec n = shifted - kInteger;
  Vec r;
  if constexpr (rounded && kFused) {
    r = fma(n, splat(-0.693147181f), x);
  } else {  // In two parts: n times the first is exact.
    r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
  }
  // e^r, off by 2e-8 of itself before rounding.
  Vec value = splat(0.0013926184f);
  value = fma(value, r, splat(0.00836317893f));
  value = fma(value, r, splat(0.0416665561f));
  value = fma(value, r, splat(0.166665763f));
  value = fma(value, r, splat(0.5f));
  value = fma(value, r, splat(1.0f));
  value = fma(value, r, splat(1.0f));
  return value * (Vec)((WordVec)shifted << 23);
}

/// The same for any x; above 87, its value there.
QUEST_INLINE Vec exponential(Vec x) { return exponential_below_88(min(splat(87.0f), x)); }

/// 1 / (1 + e^-x) to 7e-5 of itself where that is above 1e-37, for results that are rounded to
/// bf16; less is cut to some 1e-38, and NaN may become any value: a factor x beside it keeps the
/// NaN.
QUEST_INLINE Vec rough_sigmoid(Vec x) {
#if defined(__AVX512F__)
  // As whole numbers, positive floats keep their order, and negative ones without sign follow them:
  // two minima on any vector unit cut both ends.
  const __m512i below = _mm512_min_epi32((__m512i)x, (__m512i)splat(87.0f));
  x = (Vec)_mm512_min_epu32(below, (__m512i)splat(-87.0f));
  const Vec shifted = fma(x, splat(-1.44269504f), splat(12582912.0f));
  const Vec f = fma(x, splat(-1.44269504f), 12582912.0f - shifted);
  // 2^f for |f| <= 1/2, to 4e-6 of itself.
  Vec p = splat(0.00966636837f);
  p = fma(p, f, splat(0.0559219755f));
  p = fma(p, f, splat(0.240223497f));
  p = fma(p, f, splat(0.693121016f));
  p = fma(p, f, splat(1.0f));
  const Vec power = (Vec)((WordVec)p + ((WordVec)shifted << 23));
  return _mm512_rcp14_ps(1.0f + power);
#else
  return reciprocal(1.0f + exponential(-x));
#endif
}

}  // namespace
}  // namespace quest
