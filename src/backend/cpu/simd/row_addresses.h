// Twelve rows of an operand in loops whose registers are short.
#pragma once

#include <cstdint>

namespace quest {
namespace {

/// Rows of x by the addresses of every third: with those of all twelve, registers run out, and g++
/// 12 fetches addresses from vector registers, on a port that multiplies.
struct RowAddresses {
  const std::uint8_t* third[4];

  RowAddresses(const std::uint8_t* x, std::int64_t stride) {
    for (int i = 0; i < 4; ++i) {
      third[i] = x + 3 * i * stride;
      // Else the compiler goes back to twelve offsets from one address.
      asm("" : "+r"(third[i]));
    }
  }
  template <int r>
  const std::uint8_t* row(std::int64_t stride) const {
    return third[r / 3] + r % 3 * stride;
  }
};

}  // namespace
}  // namespace quest
