// Sixteen floats in AVX-512: the vocabulary in which quantize_rows.inc.h is written.
//
// simd16_generic.h and simd16_avx2.h define the same names; each operation rounds as plain IEEE
// arithmetic does, so the three give the same bits. For files compiled for AVX-512 only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace quest {
namespace {

struct F16 {
  __m512 v;
};
/// Sixteen doubles.
struct D16 {
  __m512d lo, hi;
};

inline F16 zero16() { return {_mm512_setzero_ps()}; }
inline F16 splat16(float x) { return {_mm512_set1_ps(x)}; }
inline F16 load16(const float* p) { return {_mm512_loadu_ps(p)}; }
/// Sixteen bf16 as floats.
inline F16 widened(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline F16 load16_bf16(const std::uint16_t* p) {
  return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F16 load16_codes(const std::int8_t* p) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))};
}
inline F16 load16_ints(const std::int32_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))};
}
inline void store16(float* p, F16 x) { _mm512_storeu_ps(p, x.v); }
/// Rounds to nearest even; a NaN stays a NaN.
inline __m256i bf16_bits(F16 x) {
#if defined(__AVX512BF16__)
  // The conversion of the CPU takes denormal values for 0, and rounds all others the same way.
  if (__builtin_expect(_mm512_fpclass_ps_mask(x.v, 0x20) == 0, 1)) {
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v));
  }
#endif
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  rounded =
      _mm512_mask_or_epi32(rounded, nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(rounded);
}
inline void store16_bf16(std::uint16_t* p, F16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bf16_bits(x));
}

/// Both as bf16, next to each other; as bf16_bits.
inline __m512i bf16_bits(F16 low, F16 high) {
#if defined(__AVX512BF16__)
  if (__builtin_expect(
          (_mm512_fpclass_ps_mask(low.v, 0x20) | _mm512_fpclass_ps_mask(high.v, 0x20)) == 0, 1)) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.v, low.v));
  }
#endif
  return _mm512_inserti64x4(_mm512_castsi256_si512(bf16_bits(low)), bf16_bits(high), 1);
}

inline F16 add(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F16 sub(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F16 mul(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
/// sum + x * x where the product is exact, so that it may be fused.
inline F16 add_exact_square(F16 sum, F16 x) { return {_mm512_fmadd_ps(x.v, x.v, sum.v)}; }

/// Lane i becomes x[i] + x[i + h] where bit h of i is 0, x[i - h] - x[i] where it is 1. The product
/// with 1 or -1 is exact, so the fused operation rounds once, as an addition does.
template <int h>
inline F16 butterfly(F16 x) {
  __m512 swapped, signs;
  if constexpr (h == 1) {
    swapped = _mm512_permute_ps(x.v, 0xb1);
    signs = _mm512_setr_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1);
  } else if constexpr (h == 2) {
    swapped = _mm512_permute_ps(x.v, 0x4e);
    signs = _mm512_setr_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1);
  } else if constexpr (h == 4) {
    swapped = _mm512_shuffle_f32x4(x.v, x.v, 0xb1);
    signs = _mm512_setr_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1);
  } else {
    swapped = _mm512_shuffle_f32x4(x.v, x.v, 0x4e);
    signs = _mm512_setr_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
  }
  return {_mm512_fmadd_ps(x.v, signs, swapped)};
}

/// Keeps lane i where bit i is 1, else 0.
inline F16 select_bits(std::uint32_t bits, F16 x) {
  return {_mm512_maskz_mov_ps(static_cast<__mmask16>(bits), x.v)};
}
/// Bit i: |x[i]| <= limit[i].
inline std::uint32_t within(F16 x, F16 limit) {
  return _mm512_cmp_ps_mask(_mm512_abs_ps(x.v), limit.v, _CMP_LE_OQ);
}

inline D16 zero_d16() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
inline D16 add(D16 a, F16 b) {
  return {_mm512_add_pd(a.lo, _mm512_cvtps_pd(_mm512_castps512_ps256(b.v))),
          _mm512_add_pd(a.hi, _mm512_cvtps_pd(_mm512_extractf32x8_ps(b.v, 1)))};
}
inline void store_d16(double* p, D16 x) {
  _mm512_storeu_pd(p, x.lo);
  _mm512_storeu_pd(p + 8, x.hi);
}

/// Turns 64 values into codes clamp(floor(u), low, high), and sums codes. Bit i of what `make`
/// returns: the code of value i needed no clamp, unless low and high are those of 8 bits.
class CodeMaker {
 public:
  CodeMaker(int low, int high)
      : low_(_mm512_set1_epi8(static_cast<char>(low))),
        high_(_mm512_set1_epi8(static_cast<char>(high))) {}

  /// `interleaved`: of two pairs of vectors ordered as interleaved_rows_avx512.inc.h says.
  template <bool interleaved = false>
  std::uint64_t make(std::int8_t* codes, F16 u0, F16 u1, F16 u2, F16 u3) {
    const __m512i words01 = _mm512_packs_epi32(floor(u0), floor(u1));
    const __m512i words23 = _mm512_packs_epi32(floor(u2), floor(u3));
    const __m512i order =
        interleaved ? _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)
                    : _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(words01, words23));
    const __m512i clamped = _mm512_min_epi8(_mm512_max_epi8(bytes, low_), high_);
    _mm512_storeu_si512(codes, clamped);
    sums_ = _mm512_dpbusd_epi32(sums_, _mm512_set1_epi8(1), clamped);
    return _mm512_cmpeq_epi8_mask(bytes, clamped);
  }
  std::int32_t sum() const { return _mm512_reduce_add_epi32(sums_); }

 private:
  static __m512i floor(F16 u) {
    return _mm512_cvt_roundps_epi32(u.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  }
  __m512i low_;
  __m512i high_;
  __m512i sums_ = _mm512_setzero_si512();
};

}  // namespace
}  // namespace quest
