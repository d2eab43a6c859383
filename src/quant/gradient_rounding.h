// Gradient rounding: how an output gradient becomes 8-bit integers whose expectation it is.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/rng.h"
#include "core/tensor.h"

namespace quest {

/// What names the random bits of one rounded matrix: a Philox key. Its counters end in 0, which is
/// no RngPurpose, so they meet those of no Rng.
struct RoundingKey {
  std::array<std::uint32_t, 2> words;
  Tensor on_device = {};  ///< u32 [2]: the words where kernels of a device read them
};

/// The keys of one micro-batch, in the order in which its backward pass takes them.
class RoundingKeys {
 public:
  /// `on_device`, u32 [n, 2], has the words of the first n keys, or is null.
  RoundingKeys(std::uint64_t seed, std::uint32_t step, std::uint32_t micro_batch,
               Tensor on_device = {})
      : rng_(seed, RngPurpose::kRounding, step), micro_batch_(micro_batch), on_device_(on_device) {}

  RoundingKey next() {
    const auto bits = rng_.bits(std::uint64_t{micro_batch_} << 32 | taken_);
    const Tensor row = on_device_ ? on_device_.rows_slice(taken_, taken_ + 1) : Tensor();
    ++taken_;
    return {{bits[0], bits[1]}, row};
  }

  std::uint32_t taken() const { return taken_; }

 private:
  Rng rng_;
  std::uint32_t micro_batch_;
  Tensor on_device_;
  std::uint32_t taken_ = 0;
};

/// A line of values G (a row or a column) that shares one scale becomes integers g in -127..127:
///
///   scale = max |G| / 127        t = nearest integer to 2^16 G / scale, at most 127 2^16
///   g = floor((t + u) / 2^16)    u uniform on 0 .. 2^16 - 1
///
/// so E[scale g] = scale t / 2^16, which is off G by at most 2^-17 scale, and by 2^-22 of G itself,
/// since the factor 2^16 / scale is rounded towards 0 to keep t in range. -128 never occurs: a
/// range without a mirror image would bias the ends. A line whose largest value is below
/// kLeastGradient counts as zero: g = 0, scale = 0. A line with NaN or infinity has scale NaN, so
/// that whatever it is multiplied into shows it.
struct LineRounding {
  float scale;
  float to_fixed;  ///< 2^16 / scale, rounded towards 0

  static constexpr float kLargestFixed = 127.0f * 65536.0f;
  static constexpr float kLeastGradient = 0x1p-100f;

  static LineRounding make(float largest) {
    if (!std::isfinite(largest)) return {std::nanf(""), 0.0f};
    if (largest < kLeastGradient) return {0.0f, 0.0f};
    float factor = kLargestFixed / largest;
    // The product of two floats is exact in double.
    if (double{factor} * double{largest} > double{kLargestFixed}) {
      factor = std::nextafter(factor, 0.0f);
    }
    return {largest / 127.0f, factor};
  }

  /// g of one value; `u` has 16 bits.
  std::int32_t round(float value, std::uint32_t u) const {
    const auto fixed = static_cast<std::int32_t>(std::nearbyint(value * to_fixed));
    return (fixed + static_cast<std::int32_t>(u)) >> 16;
  }
};

/// u of element (row, column) of the matrix that `key` names. Of the 16 bytes of a Philox block
/// each is the upper half of one u and the lower half of another: a u is uniform on all its 16
/// bits, and what two of them share decides in one of 256 cases, so the correlation of two
/// roundings is at most 1/256. Words go to columns 64 apart, so that 16 blocks in vector registers
/// hold the bits of 256 columns in the columns' order: those of 32 columns, then the words rotated
/// for the next 32.
inline std::uint32_t rounding_bits(const RoundingKey& key, std::int64_t row, std::int64_t column) {
  const auto block = static_cast<std::uint32_t>(column / 256 * 16 + column % 32 / 2);
  const auto words = philox4x32({block, static_cast<std::uint32_t>(row), 0, 0}, key.words);
  const std::uint32_t word = words[static_cast<std::size_t>(column % 256 / 64)];
  const std::uint32_t turned = column % 64 < 32 ? word : std::rotr(word, 8);
  return turned >> (column % 2 * 16) & 0xffffu;
}

/// Rows of a weight gradient that are summed as integers with one scale a column: bounds the
/// integer for any number of tokens and lets the scale follow them.
inline constexpr std::int64_t kRoundedRows = 4096;

}  // namespace quest
