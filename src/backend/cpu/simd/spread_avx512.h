// Fields of packed rows as bytes, by VBMI. For files compiled for AVX-512 with VBMI only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace quest {
namespace {

/// 64 fields as bytes, in order, from 8 * bits bytes.
template <int bits>
inline __m512i spread(__m512i stream) {
  alignas(64) static constexpr auto kTables = [] {
    struct {
      std::uint8_t bytes[64];
      std::uint8_t shifts[64];
    } tables{};
    for (int i = 0; i < 64; ++i) {
      tables.bytes[i] = static_cast<std::uint8_t>(i / 8 * bits + i % 8);
      tables.shifts[i] = static_cast<std::uint8_t>(i % 8 * bits);
    }
    return tables;
  }();
  const __m512i words = _mm512_permutexvar_epi8(_mm512_load_si512(kTables.bytes), stream);
  const __m512i fields = _mm512_multishift_epi64_epi8(_mm512_load_si512(kTables.shifts), words);
  return _mm512_and_si512(fields, _mm512_set1_epi8(static_cast<char>((1 << bits) - 1)));
}

}  // namespace
}  // namespace quest
