// Tests of Philox against its published known answers, and of the draws.
#include "core/rng.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quest {
namespace {

TEST(Philox, PublishedKnownAnswers) {
  // Random123, kat_vectors: philox4x32 10.
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, StreamsOfOtherSeedsPurposesAndStepsDiffer) {
  const auto word = Rng(1, RngPurpose::kInit, 0).bits(5);
  EXPECT_EQ(word, Rng(1, RngPurpose::kInit, 0).bits(5));
  EXPECT_NE(word, Rng(2, RngPurpose::kInit, 0).bits(5));
  EXPECT_NE(word, Rng(1, RngPurpose::kShuffle, 0).bits(5));
  EXPECT_NE(word, Rng(1, RngPurpose::kInit, 1).bits(5));
}

TEST(Rng, NormalHasTheMomentsOfAGaussian) {
  Rng rng(7, RngPurpose::kTest);
  constexpr int kDraws = 200000;
  double sum = 0, squares = 0, fourth = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.normal();
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  // Five standard errors each.
  EXPECT_NEAR(sum / kDraws, 0.0, 5 / std::sqrt(kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(fourth / kDraws, 3.0, 5 * std::sqrt(96.0 / kDraws));
}

TEST(Rng, BelowStaysBelowAndReachesEveryValue) {
  Rng rng(7, RngPurpose::kTest);
  int seen[7] = {};
  for (int i = 0; i < 1000; ++i) ++seen[rng.below(7)];
  for (const int count : seen) EXPECT_GT(count, 80);
}

}  // namespace
}  // namespace quest
