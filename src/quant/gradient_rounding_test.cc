// Tests of the rounding of gradients to 8-bit integers.
#include "quant/gradient_rounding.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>

namespace quest {
namespace {

TEST(LineRounding, TheMeanOverAllRandomBitsIsTheValue) {
  const LineRounding line = LineRounding::make(3.0f);
  Rng rng(1, RngPurpose::kTest);
  for (int i = 0; i < 50; ++i) {
    const auto value = static_cast<float>(6.0 * rng.uniform() - 3.0);
    std::int64_t sum = 0;
    for (std::uint32_t u = 0; u < 65536; ++u) sum += line.round(value, u);
    const double mean = line.scale * (static_cast<double>(sum) / 65536);
    // Half a unit of 2^-16 steps, and the roundings of the factor and of the product.
    EXPECT_NEAR(mean, value, line.scale * 0x1p-17 + std::abs(value) * 0x1p-21);
  }
}

TEST(LineRounding, OneValueIsRoundedAsTheDefinitionSays) {
  // scale = 1, so 2.25 lies a quarter above 2: up for exactly a quarter of the random bits.
  const LineRounding line = LineRounding::make(127.0f);
  EXPECT_EQ(line.scale, 1.0f);
  EXPECT_EQ(line.to_fixed, 65536.0f);
  EXPECT_EQ(line.round(2.25f, 0), 2);
  EXPECT_EQ(line.round(2.25f, 49151), 2);
  EXPECT_EQ(line.round(2.25f, 49152), 3);
  EXPECT_EQ(line.round(2.25f, 65535), 3);
  EXPECT_EQ(line.round(-2.25f, 16383), -3);
  EXPECT_EQ(line.round(-2.25f, 16384), -2);
  EXPECT_EQ(line.round(5.0f, 65535), 5);
  EXPECT_EQ(line.round(-5.0f, 0), -5);
}

TEST(LineRounding, TheRangeIsSymmetricWhateverTheLargestValueIs) {
  Rng rng(2, RngPurpose::kTest);
  for (int i = 0; i < 20000; ++i) {
    const float largest =
        std::ldexp(static_cast<float>(1.0 + rng.uniform()), static_cast<int>(rng.below(100)) - 50);
    const LineRounding line = LineRounding::make(largest);
    for (const std::uint32_t u : {0u, 65535u}) {
      ASSERT_LE(line.round(largest, u), 127) << largest;
      ASSERT_GE(line.round(largest, u), 126) << largest;
      ASSERT_GE(line.round(-largest, u), -127) << largest;
      ASSERT_LE(line.round(-largest, u), -126) << largest;
    }
  }
}

TEST(LineRounding, ZeroIsZeroAndBrokenLinesShow) {
  for (const float largest : {0.0f, 0x1p-101f, std::numeric_limits<float>::denorm_min()}) {
    const LineRounding line = LineRounding::make(largest);
    EXPECT_EQ(line.scale, 0.0f);
    EXPECT_EQ(line.round(largest, 65535), 0);
  }
  EXPECT_GT(LineRounding::make(0x1p-100f).scale, 0.0f);
  EXPECT_EQ(LineRounding::make(0x1p-100f).round(0x1p-100f, 65535), 127);
  EXPECT_GE(LineRounding::make(std::numeric_limits<float>::max())
                .round(std::numeric_limits<float>::max(), 0),
            126);
  EXPECT_TRUE(std::isnan(LineRounding::make(std::numeric_limits<float>::infinity()).scale));
  EXPECT_TRUE(std::isnan(LineRounding::make(std::nanf("")).scale));
}

TEST(RoundingKeys, EverySeedStepMicroBatchAndTurnHasItsOwnBits) {
  std::set<std::array<std::uint32_t, 2>> seen;
  for (const std::uint64_t seed : {1, 2}) {
    for (const std::uint32_t step : {0u, 1u}) {
      for (const std::uint32_t micro_batch : {0u, 1u}) {
        RoundingKeys keys(seed, step, micro_batch);
        RoundingKeys again(seed, step, micro_batch);
        for (int turn = 0; turn < 3; ++turn) {
          const RoundingKey key = keys.next();
          EXPECT_EQ(key.words, again.next().words);
          seen.insert(key.words);
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), 24u);
}

TEST(RoundingBits, AllSixteenBitsAreUniformAndNeighboursAreIndependent) {
  const RoundingKey key = RoundingKeys(1, 2, 3).next();
  constexpr std::int64_t kRows = 256, kColumns = 512;
  std::array<double, 16> ones{};
  std::array<double, 3> products{};  // with the right, the lower and the 32nd right neighbour
  const auto centred = [&](std::int64_t row, std::int64_t column) {
    return (rounding_bits(key, row, column) + 0.5) / 65536 - 0.5;
  };
  for (std::int64_t row = 0; row < kRows; ++row) {
    for (std::int64_t column = 0; column < kColumns; ++column) {
      const std::uint32_t bits = rounding_bits(key, row, column);
      ASSERT_LT(bits, 65536u);
      for (std::size_t i = 0; i < 16; ++i) ones[i] += bits >> i & 1;
      const double value = centred(row, column);
      products[0] += value * centred(row, column + 1);
      products[1] += value * centred(row + 1, column);
      products[2] += value * centred(row, column + 32);
    }
  }
  constexpr double kCount = kRows * kColumns;
  for (const double count : ones) EXPECT_NEAR(count / kCount, 0.5, 5 * 0.5 / std::sqrt(kCount));
  // Each factor has variance 1/12; the last pair shares a byte.
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(12 * products[i] / kCount, 0.0, 5 / std::sqrt(kCount) + (i == 2 ? 1.0 / 256 : 0.0));
  }
}

}  // namespace
}  // namespace quest
