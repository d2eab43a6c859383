// bfloat16 storage and its conversions (round to nearest even).
#pragma once

#include <bit>
#include <cstdint>

namespace quest {

/// The upper half of an IEEE-754 binary32: 8 exponent bits, 7 fraction bits. Storage only; compute
/// in float.
struct BFloat16 {
  std::uint16_t bits;
};

inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
inline float to_float(float value) { return value; }

/// Rounds to nearest even; a NaN stays a NaN.
inline BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  }
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

/// `to<float>(x)` and `to<BFloat16>(x)`: the one spelling that code generic in the type uses.
template <typename T>
T to(float value);
template <>
inline float to<float>(float value) {
  return value;
}
template <>
inline BFloat16 to<BFloat16>(float value) {
  return to_bfloat16(value);
}

}  // namespace quest
