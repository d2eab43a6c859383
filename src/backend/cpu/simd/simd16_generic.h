// Sixteen floats in the compiler's portable vectors of four; see simd16_avx512.h.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstdint>

namespace quest {
namespace {

typedef float F4 __attribute__((vector_size(16)));
typedef std::int32_t I4 __attribute__((vector_size(16)));

struct F16 {
  F4 v[4];
};
struct D16 {
  double v[16];
};

inline F16 zero16() { return {}; }
inline F16 splat16(float x) {
  const F4 four = {x, x, x, x};
  return {{four, four, four, four}};
}
inline F16 load16(const float* p) {
  F16 x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline F16 load16_bf16(const std::uint16_t* p) {
  std::uint32_t bits[16];
  for (int i = 0; i < 16; ++i) bits[i] = static_cast<std::uint32_t>(p[i]) << 16;
  F16 x;
  __builtin_memcpy(&x, bits, sizeof x);
  return x;
}
inline F16 load16_codes(const std::int8_t* p) {
  float values[16];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(p[i]);
  return load16(values);
}
inline F16 load16_ints(const std::int32_t* p) {
  float values[16];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(p[i]);
  return load16(values);
}
inline void store16(float* p, F16 x) { __builtin_memcpy(p, &x, sizeof x); }
inline void store16_bf16(std::uint16_t* p, F16 x) {
  std::uint32_t bits[16];
  __builtin_memcpy(bits, &x, sizeof x);
  for (int i = 0; i < 16; ++i) {
    const std::uint32_t rounded = (bits[i] + 0x7fffu + ((bits[i] >> 16) & 1u)) >> 16;
    const bool nan = (bits[i] & 0x7fffffffu) > 0x7f800000u;
    p[i] = static_cast<std::uint16_t>(nan ? (bits[i] >> 16) | 0x40u : rounded);
  }
}

inline F16 add(F16 a, F16 b) {
  return {{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2], a.v[3] + b.v[3]}};
}
inline F16 sub(F16 a, F16 b) {
  return {{a.v[0] - b.v[0], a.v[1] - b.v[1], a.v[2] - b.v[2], a.v[3] - b.v[3]}};
}
inline F16 mul(F16 a, F16 b) {
  return {{a.v[0] * b.v[0], a.v[1] * b.v[1], a.v[2] * b.v[2], a.v[3] * b.v[3]}};
}
inline F16 add_exact_square(F16 sum, F16 x) { return add(sum, mul(x, x)); }

template <int h>
inline F4 butterfly4(F4 x) {
  if constexpr (h == 1) {
    const F4 signs = {1, -1, 1, -1};
    return __builtin_shufflevector(x, x, 1, 0, 3, 2) + x * signs;
  } else {
    const F4 signs = {1, 1, -1, -1};
    return __builtin_shufflevector(x, x, 2, 3, 0, 1) + x * signs;
  }
}
template <int h>
inline F16 butterfly(F16 x) {
  const F4 a = x.v[0], b = x.v[1], c = x.v[2], d = x.v[3];
  if constexpr (h == 8) {
    return {{a + c, b + d, a - c, b - d}};
  } else if constexpr (h == 4) {
    return {{a + b, a - b, c + d, c - d}};
  } else {
    return {{butterfly4<h>(a), butterfly4<h>(b), butterfly4<h>(c), butterfly4<h>(d)}};
  }
}

inline F16 select_bits(std::uint32_t bits, F16 x) {
  std::uint32_t words[16];
  __builtin_memcpy(words, &x, sizeof x);
  for (int i = 0; i < 16; ++i) words[i] &= 0u - ((bits >> i) & 1u);
  __builtin_memcpy(&x, words, sizeof x);
  return x;
}
inline std::uint32_t within(F16 x, F16 limit) {
  std::uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) {
    const I4 inside = (x.v[i] <= limit.v[i]) & (x.v[i] >= -limit.v[i]);
    const I4 places = inside & I4{1, 2, 4, 8};
    bits |= static_cast<std::uint32_t>(places[0] | places[1] | places[2] | places[3]) << (4 * i);
  }
  return bits;
}

inline D16 zero_d16() { return {}; }
inline D16 add(D16 a, F16 b) {
  float values[16];
  store16(values, b);
  for (int i = 0; i < 16; ++i) a.v[i] += static_cast<double>(values[i]);
  return a;
}
inline void store_d16(double* p, D16 x) { __builtin_memcpy(p, &x, sizeof x); }

class CodeMaker {
 public:
  CodeMaker(int low, int high) : low_(low), high_(high) {}

  std::uint64_t make(std::int8_t* codes, F16 u0, F16 u1, F16 u2, F16 u3) {
    const F16 values[4] = {u0, u1, u2, u3};
    std::int32_t floors[64];
    for (int i = 0; i < 16; ++i) {
      const F4 u = values[i / 4].v[i % 4];
      const I4 truncated = __builtin_convertvector(u, I4);
      // A comparison gives -1 where it holds: where truncation went up.
      const I4 floor = truncated + (__builtin_convertvector(truncated, F4) > u);
      __builtin_memcpy(floors + 4 * i, &floor, sizeof floor);
    }
    std::uint64_t unclamped = 0;
    for (int i = 0; i < 64; ++i) {
      const std::int32_t above = floors[i] < low_ ? low_ : floors[i];
      const std::int32_t code = above > high_ ? high_ : above;
      codes[i] = static_cast<std::int8_t>(code);
      sum_ += code;
      unclamped |= static_cast<std::uint64_t>(code == floors[i]) << i;
    }
    return unclamped;
  }
  std::int32_t sum() const { return sum_; }

 private:
  std::int32_t low_;
  std::int32_t high_;
  std::int32_t sum_ = 0;
};

/// Four sums of products of 16-bit pairs.
using Words = I4;
constexpr int kWordsLanes = 4;
constexpr int kWordsTileRows = 3;
inline Words zero_words() { return Words{}; }
inline Words load_words(const std::uint8_t* p) {
  Words words;
  __builtin_memcpy(&words, p, sizeof words);
  return words;
}
/// The same pair, 4 bytes, in every lane.
inline Words splat_pair(const std::uint8_t* p) {
  std::int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return Words{pair, pair, pair, pair};
}
inline Words dot_words(Words sum, Words a, Words b) {
#if defined(__SSE2__)
  return sum + reinterpret_cast<Words>(
                   _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return sum + (a >> 16) * (b >> 16) + ((a << 16) >> 16) * ((b << 16) >> 16);
#endif
}
inline void store_sums(std::int32_t* p, Words x) { __builtin_memcpy(p, &x, sizeof x); }

}  // namespace
}  // namespace quest
