// Sixteen floats in AVX2; see simd16_avx512.h. For files compiled for AVX2 only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace quest {
namespace {

struct F16 {
  __m256 lo, hi;
};
struct D16 {
  __m256d v[4];
};

inline F16 zero16() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F16 splat16(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F16 load16(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline F16 load16_bf16(const std::uint16_t* p) {
  const __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i hi =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
inline F16 load16_codes(const std::int8_t* p) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8)))};
}
inline F16 load16_ints(const std::int32_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))),
          _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8)))};
}
inline void store16(float* p, F16 x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
/// Eight floats as bf16 bits in the low half of each 32-bit lane.
inline __m256i round_to_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, quiet, nan);
}
inline void store16_bf16(std::uint16_t* p, F16 x) {
  const __m256i packed = _mm256_packus_epi32(round_to_bf16(x.lo), round_to_bf16(x.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}

inline F16 add(F16 a, F16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F16 sub(F16 a, F16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F16 mul(F16 a, F16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F16 add_exact_square(F16 sum, F16 x) {
  return {_mm256_fmadd_ps(x.lo, x.lo, sum.lo), _mm256_fmadd_ps(x.hi, x.hi, sum.hi)};
}

template <int h>
inline __m256 butterfly8(__m256 x) {
  if constexpr (h == 1) {
    const __m256 signs = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    return _mm256_fmadd_ps(x, signs, _mm256_permute_ps(x, 0xb1));
  } else if constexpr (h == 2) {
    const __m256 signs = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    return _mm256_fmadd_ps(x, signs, _mm256_permute_ps(x, 0x4e));
  } else {
    const __m256 signs = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    return _mm256_fmadd_ps(x, signs, _mm256_permute2f128_ps(x, x, 1));
  }
}
template <int h>
inline F16 butterfly(F16 x) {
  if constexpr (h == 8) {
    return {_mm256_add_ps(x.lo, x.hi), _mm256_sub_ps(x.lo, x.hi)};
  } else {
    return {butterfly8<h>(x.lo), butterfly8<h>(x.hi)};
  }
}

/// Lanes all ones where the lowest eight bits are 1.
inline __m256 lanes_of_bits(std::uint32_t bits) {
  const __m256i places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i chosen = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), places);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(chosen, places));
}
inline F16 select_bits(std::uint32_t bits, F16 x) {
  return {_mm256_and_ps(x.lo, lanes_of_bits(bits)), _mm256_and_ps(x.hi, lanes_of_bits(bits >> 8))};
}
inline std::uint32_t within8(__m256 x, __m256 limit) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
  return static_cast<std::uint32_t>(
      _mm256_movemask_ps(_mm256_cmp_ps(magnitude, limit, _CMP_LE_OQ)));
}
inline std::uint32_t within(F16 x, F16 limit) {
  return within8(x.lo, limit.lo) | within8(x.hi, limit.hi) << 8;
}

inline D16 zero_d16() {
  const __m256d zero = _mm256_setzero_pd();
  return {{zero, zero, zero, zero}};
}
inline D16 add(D16 a, F16 b) {
  return {{_mm256_add_pd(a.v[0], _mm256_cvtps_pd(_mm256_castps256_ps128(b.lo))),
           _mm256_add_pd(a.v[1], _mm256_cvtps_pd(_mm256_extractf128_ps(b.lo, 1))),
           _mm256_add_pd(a.v[2], _mm256_cvtps_pd(_mm256_castps256_ps128(b.hi))),
           _mm256_add_pd(a.v[3], _mm256_cvtps_pd(_mm256_extractf128_ps(b.hi, 1)))}};
}
inline void store_d16(double* p, D16 x) {
  for (int i = 0; i < 4; ++i) _mm256_storeu_pd(p + 4 * i, x.v[i]);
}

class CodeMaker {
 public:
  CodeMaker(int low, int high)
      : low_(_mm256_set1_epi8(static_cast<char>(low))),
        high_(_mm256_set1_epi8(static_cast<char>(high))) {}

  std::uint64_t make(std::int8_t* codes, F16 u0, F16 u1, F16 u2, F16 u3) {
    const std::uint64_t low = make32(codes, u0, u1);
    return low | std::uint64_t{make32(codes + 32, u2, u3)} << 32;
  }
  std::int32_t sum() const {
    alignas(32) std::int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums_);
    std::int32_t total = 0;
    for (int i = 0; i < 8; ++i) total += lanes[i];
    return total;
  }

 private:
  static __m256i floor(__m256 u) { return _mm256_cvtps_epi32(_mm256_floor_ps(u)); }
  std::uint32_t make32(std::int8_t* codes, F16 a, F16 b) {
    const __m256i words_a = _mm256_packs_epi32(floor(a.lo), floor(a.hi));
    const __m256i words_b = _mm256_packs_epi32(floor(b.lo), floor(b.hi));
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words_a, words_b),
                                                      _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m256i clamped = _mm256_min_epi8(_mm256_max_epi8(bytes, low_), high_);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), clamped);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), clamped);
    sums_ = _mm256_add_epi32(sums_, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, clamped)));
  }
  __m256i low_;
  __m256i high_;
  __m256i sums_ = _mm256_setzero_si256();
};

/// Eight sums of products of 16-bit pairs.
using Words = __m256i;
constexpr int kWordsLanes = 8;
constexpr int kWordsTileRows = 6;
inline Words zero_words() { return _mm256_setzero_si256(); }
inline Words load_words(const std::uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
/// The same pair, 4 bytes, in every lane.
inline Words splat_pair(const std::uint8_t* p) {
  std::int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm256_set1_epi32(pair);
}
inline Words dot_words(Words sum, Words a, Words b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
inline void store_sums(std::int32_t* p, Words x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
}

}  // namespace
}  // namespace quest
