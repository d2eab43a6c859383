// Tests of the block Hadamard transform against its matrix.
#include "quant/hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

namespace quest {
namespace {

TEST(Hadamard, BlockIsTheLargestPowerOfTwoUpTo128ThatDivides) {
  EXPECT_EQ(hadamard_block(1), 1);
  EXPECT_EQ(hadamard_block(127), 1);
  EXPECT_EQ(hadamard_block(96), 32);
  EXPECT_EQ(hadamard_block(128), 128);
  EXPECT_EQ(hadamard_block(640), 128);
  EXPECT_EQ(hadamard_block(1728), 64);
  EXPECT_EQ(hadamard_block(4096), 128);
  EXPECT_THROW(hadamard_block(0), Error);
}

TEST(Hadamard, EqualsTheProductWithTheSylvesterMatrix) {
  Rng rng(1, RngPurpose::kTest);
  for (const std::int64_t block : {1, 2, 8, 64, 128}) {
    const std::int64_t columns = 3 * block;
    std::vector<double> values(static_cast<std::size_t>(columns));
    for (double& value : values) value = rng.normal();
    std::vector<double> transformed = values;
    hadamard_transform(transformed.data(), columns, block);
    for (std::int64_t j = 0; j < columns; ++j) {
      double expected = 0;
      const std::int64_t start = j / block * block;
      for (std::int64_t i = 0; i < block; ++i) {
        // Sylvester: H[i][j] = (-1)^popcount(i & j).
        const bool odd = std::popcount(static_cast<std::uint64_t>(i & (j - start))) % 2 == 1;
        expected += (odd ? -1 : 1) * values[static_cast<std::size_t>(start + i)];
      }
      EXPECT_NEAR(transformed[static_cast<std::size_t>(j)], expected / std::sqrt(double(block)),
                  1e-12);
    }
  }
}

TEST(Hadamard, IsItsOwnInverse) {
  Rng rng(2, RngPurpose::kTest);
  std::vector<float> values(256);
  for (float& value : values) value = static_cast<float>(rng.normal());
  std::vector<float> twice = values;
  hadamard_transform(twice.data(), 256, 128);
  hadamard_transform(twice.data(), 256, 128);
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(twice[i], values[i], 2e-6);
}

}  // namespace
}  // namespace quest
