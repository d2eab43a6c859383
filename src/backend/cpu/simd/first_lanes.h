// Masks of the first lanes of a vector. For files compiled for AVX-512 only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace quest {
namespace {

/// Ones in the first `count` <= 32 bits.
inline __mmask32 first_lanes(std::int64_t count) {
  return static_cast<__mmask32>((std::uint64_t{1} << count) - 1);
}

/// Ones in the first `count` bits, up to 64.
inline __mmask64 first_bytes(std::int64_t count) {
  return count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
}

}  // namespace
}  // namespace quest
