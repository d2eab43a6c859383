// Vec: as many floats as a register of the instruction set holds, and arithmetic on them.
//
// Written in the compiler's vector types, with intrinsics where those lack an operation. For files
// compiled for one instruction set; everything has internal linkage.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>

#include "backend/cpu/rows/float_kernels.h"

#define QUEST_INLINE inline __attribute__((always_inline))

namespace quest {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Whether fma rounds once.
#if defined(__AVX2__)
constexpr bool kFused = true;
#else
constexpr bool kFused = false;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t WordVec __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t HalfWordVec __attribute__((vector_size(2 * kLanes)));
typedef float HalfVec __attribute__((vector_size(2 * kLanes)));
typedef std::int8_t ByteVec __attribute__((vector_size(kLanes)));
typedef std::uint8_t UnsignedByteVec __attribute__((vector_size(kLanes)));
typedef double DoubleVec __attribute__((vector_size(4 * kLanes)));

QUEST_INLINE Vec splat(float x) { return x - Vec{}; }

/// a * b + c.
QUEST_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}
/// The second where either is NaN.
QUEST_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
QUEST_INLINE Vec min(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}
QUEST_INLINE Vec square_root(Vec x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

QUEST_INLINE Vec magnitude(Vec x) { return (Vec)((WordVec)x & 0x7fffffffu); }
QUEST_INLINE Vec with_sign_of(Vec magnitude, Vec x) {
  return (Vec)((WordVec)magnitude | ((WordVec)x & 0x80000000u));
}

/// 1 / x to 1 unit in the last place, for x in [1, 2^126].
QUEST_INLINE Vec reciprocal(Vec x) {
#if defined(__AVX512F__)
  // An estimate to 14 bits and one of Newton's steps cost less than half of a division.
  const Vec estimate = _mm512_rcp14_ps(x);
  return fma(estimate, fma(-x, estimate, splat(1.0f)), estimate);
#else
  return 1.0f / x;
#endif
}

/// Lanes added up in a fixed order.
QUEST_INLINE float horizontal_sum(Vec x) {
#if defined(__AVX512F__)
  // As below, in registers.
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float lanes[kLanes];
  __builtin_memcpy(lanes, &x, sizeof x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
#endif
}
QUEST_INLINE float horizontal_max(Vec x) {
  float largest = x[0];
  for (int i = 1; i < kLanes; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}
QUEST_INLINE DoubleVec widen_low(Vec x) {
  HalfVec half;
  __builtin_memcpy(&half, &x, sizeof half);
  return __builtin_convertvector(half, DoubleVec);
}
QUEST_INLINE DoubleVec widen_high(Vec x) {
  HalfVec half;
  __builtin_memcpy(&half, reinterpret_cast<const char*>(&x) + sizeof half, sizeof half);
  return __builtin_convertvector(half, DoubleVec);
}
QUEST_INLINE double horizontal_sum(DoubleVec x) {
  double total = 0.0;
  for (int i = 0; i < kLanes / 2; ++i) total += x[i];
  return total;
}

/// bf16 bits of x, rounded to nearest even; a NaN stays a NaN.
QUEST_INLINE HalfWordVec round_to_bf16(Vec x) {
#if defined(__AVX512BF16__)
  // The conversion of the CPU takes denormal values for 0, and rounds all others the same way.
  constexpr int kDenormal = 0x20;
  if (__builtin_expect(_mm512_fpclass_ps_mask(x, kDenormal) == 0, 1)) {
    return (HalfWordVec)_mm512_cvtneps_pbh(x);
  }
#endif
  const WordVec bits = (WordVec)x;
  const WordVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const WordVec quiet = (bits >> 16) | 0x40u;
  return __builtin_convertvector(x == x ? rounded : quiet, HalfWordVec);
}
QUEST_INLINE Vec widen_bf16(HalfWordVec bits) {
  // g++ 12 cuts the conversion of a whole vector into halves.
#if defined(__AVX512F__)
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)bits), 16);
#elif defined(__AVX2__)
  return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)bits), 16);
#else
  return (Vec)(__builtin_convertvector(bits, WordVec) << 16);
#endif
}

#if defined(__AVX512F__)
constexpr IntVec kEven = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
constexpr IntVec kLow = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
#elif defined(__AVX2__)
constexpr IntVec kEven = {0, 2, 4, 6, 8, 10, 12, 14};
constexpr IntVec kLow = {0, 8, 1, 9, 2, 10, 3, 11};
#else
constexpr IntVec kEven = {0, 2, 4, 6};
constexpr IntVec kLow = {0, 4, 1, 5};
#endif
/// Lanes 0, 2, 4, ... (1, 3, 5, ...) of a, then of b.
QUEST_INLINE Vec even_lanes(Vec a, Vec b) { return __builtin_shuffle(a, b, kEven); }
QUEST_INLINE Vec odd_lanes(Vec a, Vec b) { return __builtin_shuffle(a, b, kEven + 1); }
/// a[0], b[0], a[1], b[1], ...: the first half of that list, and the second.
QUEST_INLINE Vec interleave_low(Vec a, Vec b) { return __builtin_shuffle(a, b, kLow); }
QUEST_INLINE Vec interleave_high(Vec a, Vec b) {
  return __builtin_shuffle(a, b, kLow + kLanes / 2);
}

#if defined(__AVX512F__)
QUEST_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
#endif
/// Bytes of `count` values; a constant for a whole vector.
QUEST_INLINE std::size_t bytes_of(int count, int value_bytes) {
  return count == kLanes ? static_cast<std::size_t>(kLanes * value_bytes)
                         : static_cast<std::size_t>(count * value_bytes);
}

/// x, whose type the compiler knows where all are bf16: choosing for each vector costs 6 % of
/// SwiGLU.
template <bool all_bf16>
QUEST_INLINE Floats known(Floats x) {
  return {x.data, all_bf16 || x.is_bf16};
}

/// Asks for what lies `bytes` after value i of x.
QUEST_INLINE void fetch_ahead(Floats x, std::int64_t i, std::int64_t bytes) {
  __builtin_prefetch(static_cast<const char*>(x.data) + i * (x.is_bf16 ? 2 : 4) + bytes);
}
/// The same, into the second-level cache.
QUEST_INLINE void fetch_far(Floats x, std::int64_t i, std::int64_t bytes) {
  __builtin_prefetch(static_cast<const char*>(x.data) + i * (x.is_bf16 ? 2 : 4) + bytes, 0, 2);
}

/// Values [i, i + count) of x, count <= kLanes; zeros in the other lanes.
QUEST_INLINE Vec load(const float* x, std::int64_t i, int count) {
#if defined(__AVX512F__)
  if (count != kLanes) return _mm512_maskz_loadu_ps(first_lanes(count), x + i);
#endif
  Vec value{};
  __builtin_memcpy(&value, x + i, bytes_of(count, 4));
  return value;
}
QUEST_INLINE Vec load(Floats x, std::int64_t i, int count) {
  if (!x.is_bf16) return load(static_cast<const float*>(x.data), i, count);
  const std::uint16_t* const from = static_cast<const std::uint16_t*>(x.data) + i;
  HalfWordVec bits{};
#if defined(__AVX512F__)
  if (count != kLanes) {
    return widen_bf16((HalfWordVec)_mm256_maskz_loadu_epi16(first_lanes(count), from));
  }
#endif
  __builtin_memcpy(&bits, from, bytes_of(count, 2));
  return widen_bf16(bits);
}
QUEST_INLINE void store(float* x, std::int64_t i, int count, Vec value) {
#if defined(__AVX512F__)
  if (count != kLanes) return _mm512_mask_storeu_ps(x + i, first_lanes(count), value);
#endif
  __builtin_memcpy(x + i, &value, bytes_of(count, 4));
}
QUEST_INLINE void store(Floats x, std::int64_t i, int count, Vec value) {
  if (!x.is_bf16) return store(static_cast<float*>(x.data), i, count, value);
  std::uint16_t* const to = static_cast<std::uint16_t*>(x.data) + i;
  const HalfWordVec bits = round_to_bf16(value);
#if defined(__AVX512F__)
  if (count != kLanes) {
    return _mm256_mask_storeu_epi16(to, first_lanes(count), (__m256i)bits);
  }
#endif
  __builtin_memcpy(to, &bits, bytes_of(count, 2));
}
QUEST_INLINE Vec load(const std::int8_t* x, std::int64_t i, int count) {
  ByteVec bytes{};
  __builtin_memcpy(&bytes, x + i, bytes_of(count, 1));
  return __builtin_convertvector(__builtin_convertvector(bytes, IntVec), Vec);
}
/// Rounds values of at most 2^21 to nearest even.
QUEST_INLINE void store(std::int8_t* x, std::int64_t i, int count, Vec value) {
  const IntVec whole = (IntVec)(value + 12582912.0f) - 0x4b400000;
  const ByteVec bytes = __builtin_convertvector(whole, ByteVec);
  __builtin_memcpy(x + i, &bytes, bytes_of(count, 1));
}
QUEST_INLINE Vec load(const std::uint8_t* x, std::int64_t i, int count) {
  UnsignedByteVec bytes{};
  __builtin_memcpy(&bytes, x + i, bytes_of(count, 1));
  return __builtin_convertvector(__builtin_convertvector(bytes, IntVec), Vec);
}
QUEST_INLINE void store(std::uint8_t* x, std::int64_t i, int count, Vec value) {
  store(reinterpret_cast<std::int8_t*>(x), i, count, value);
}
#if defined(__AVX512BF16__)
/// Both as the CPU converts them; whether that is as round_to_bf16 does, which results of 0 tell
/// apart at half the price of values.
QUEST_INLINE bool converted_exactly(__m512i& halves, Vec low, Vec high) {
  constexpr int kDenormal = 0x20;
  halves = (__m512i)_mm512_cvtne2ps_pbh(high, low);
  return __builtin_expect(_mm512_testn_epi16_mask(halves, _mm512_set1_epi16(0x7fff)) == 0, 1) ||
         (_mm512_fpclass_ps_mask(low, kDenormal) | _mm512_fpclass_ps_mask(high, kDenormal)) == 0;
}
#endif
/// Two whole vectors of bf16, the second after the first.
QUEST_INLINE void store_two(Floats x, std::int64_t i, Vec low, Vec high) {
#if defined(__AVX512BF16__)
  __m512i halves;
  if (converted_exactly(halves, low, high)) {
    return _mm512_storeu_si512(static_cast<std::uint16_t*>(x.data) + i, halves);
  }
#endif
  store({x.data, true}, i, kLanes, low);
  store({x.data, true}, i + kLanes, kLanes, high);
}

#if defined(__AVX512F__)
/// The same into a whole line, past the caches.
QUEST_INLINE void stream_two(Floats x, std::int64_t i, Vec low, Vec high) {
  __m512i halves;
#if defined(__AVX512BF16__)
  if (!converted_exactly(halves, low, high))
#endif
  {
    const __m512i first = _mm512_castsi256_si512((__m256i)round_to_bf16(low));
    halves = _mm512_inserti64x4(first, (__m256i)round_to_bf16(high), 1);
  }
  _mm512_stream_si512(reinterpret_cast<__m512i*>(static_cast<std::uint16_t*>(x.data) + i), halves);
}

/// Of 32 bf16 values the even ones and the odd ones: one operation a vector each, where widening in
/// order takes two.
struct VecPair {
  Vec even, odd;
};
QUEST_INLINE VecPair load_pair(Floats x, std::int64_t i) {
  const __m512i bits = _mm512_loadu_si512(static_cast<const std::uint16_t*>(x.data) + i);
  return {(Vec)_mm512_slli_epi32(bits, 16),
          (Vec)_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))};
}
QUEST_INLINE void store_pair(Floats x, std::int64_t i, VecPair values) {
  auto* const to = static_cast<std::uint16_t*>(x.data) + i;
#if defined(__AVX512BF16__)
  __m512i halves;
  if (converted_exactly(halves, values.even, values.odd)) {
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, halves));
  }
#endif
  const __m512i even = _mm512_cvtepu16_epi32((__m256i)round_to_bf16(values.even));
  const __m512i odd = _mm512_cvtepu16_epi32((__m256i)round_to_bf16(values.odd));
  _mm512_storeu_si512(to, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
}
#endif
/// x in the first `count` lanes, `other` in the rest.
QUEST_INLINE Vec keep_first(int count, Vec x, float other) {
#if defined(__AVX512F__)
  return _mm512_mask_blend_ps(first_lanes(count), splat(other), x);
#else
  for (int lane = count; lane < kLanes; ++lane) x[lane] = other;
  return x;
#endif
}

/// Calls step(i, count) for every vector of [0, count): first whole ones, for which `count` is a
/// constant after inlining, then the rest.
template <typename Step>
QUEST_INLINE void for_vectors(std::int64_t count, Step step) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) step(i, kLanes);
  if (i < count) step(i, static_cast<int>(count - i));
}

/// How many of `count` values fill two vectors in a row, over and over.
QUEST_INLINE std::int64_t in_pairs(std::int64_t count) {
  return count / (2 * kLanes) * (2 * kLanes);
}

/// How many of `count` values fill four vectors in a row, over and over.
QUEST_INLINE std::int64_t in_fours(std::int64_t count) {
  return count / (4 * kLanes) * (4 * kLanes);
}

}  // namespace
}  // namespace quest
