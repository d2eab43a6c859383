// Two rows of 16-bit values as pairs. For files compiled for AVX-512 only.
#pragma once

#include <immintrin.h>

namespace quest {
namespace {

/// Values 0, 0, 1, 1, ... of a and b in turn: the lower 16 columns of two rows, and the upper 16.
inline __m512i pairs_of_lower(__m512i a, __m512i b) {
  const __m512i lanes = _mm512_set_epi32(0x2f000f, 0x2e000e, 0x2d000d, 0x2c000c, 0x2b000b, 0x2a000a,
                                         0x290009, 0x280008, 0x270007, 0x260006, 0x250005, 0x240004,
                                         0x230003, 0x220002, 0x210001, 0x200000);
  return _mm512_permutex2var_epi16(a, lanes, b);
}
inline __m512i pairs_of_upper(__m512i a, __m512i b) {
  const __m512i lanes = _mm512_set_epi32(0x3f001f, 0x3e001e, 0x3d001d, 0x3c001c, 0x3b001b, 0x3a001a,
                                         0x390019, 0x380018, 0x370017, 0x360016, 0x350015, 0x340014,
                                         0x330013, 0x320012, 0x310011, 0x300010);
  return _mm512_permutex2var_epi16(a, lanes, b);
}

}  // namespace
}  // namespace quest
