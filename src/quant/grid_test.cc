// Tests of the grid constants against the stationarity condition and the published errors.
#include "quant/grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/rng.h"

namespace quest {
namespace {

// method: optimum and mean squared error on N(0, 1), bits 1..8.
constexpr std::array<double, 8> kOptimum = {0.7978845608, 1.4935300, 2.0510680, 2.5140046,
                                            2.9161512,    3.2779848, 3.6110972, 3.9222044};
constexpr std::array<double, 8> kMse = {0.363380,   0.118846,   0.0374397, 0.0115429,
                                        0.00349521, 0.00104005, 3.0437e-4, 8.782e-5};

class GridBits : public ::testing::TestWithParam<int> {};

TEST_P(GridBits, OptimumIsStationaryAndMatchesTheTable) {
  const int bits = GetParam();
  const Grid grid = Grid::optimal(bits);
  const GridMoments moments = gaussian_moments(bits, grid.alpha);
  EXPECT_NEAR(moments.correlation, moments.power, 1e-12);
  EXPECT_NEAR(grid.alpha, kOptimum[static_cast<std::size_t>(bits - 1)], 1e-6);
  EXPECT_LT(moments.mse, gaussian_moments(bits, grid.alpha * 1.001).mse);
  EXPECT_LT(moments.mse, gaussian_moments(bits, grid.alpha * 0.999).mse);
}

TEST_P(GridBits, PublishedGridHasThePublishedErrorAndIsNearTheOptimum) {
  const int bits = GetParam();
  const double mse = Grid::gaussian(bits).gaussian_mse();
  EXPECT_NEAR(mse, kMse[static_cast<std::size_t>(bits - 1)], 2e-5 * mse + 1e-8);
  EXPECT_LT(mse, 1.003 * Grid::optimal(bits).gaussian_mse());
}

TEST_P(GridBits, ClosedFormAgreesWithSampling) {
  const int bits = GetParam();
  const Grid grid = Grid::gaussian(bits);
  const double step = 2 * grid.alpha / (grid.levels() - 1);
  Rng rng(3, RngPurpose::kTest);
  constexpr int kDraws = 200000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.normal();
    const double code =
        std::clamp(std::floor(x / step), double(grid.min_code()), double(grid.max_code()));
    const double error = std::pow((code + 0.5) * step - x, 2);
    sum += error;
    squares += error * error;
  }
  const double mean = sum / kDraws;
  const double deviation = std::sqrt((squares / kDraws - mean * mean) / kDraws);
  EXPECT_NEAR(mean, grid.gaussian_mse(), 5 * deviation);
}

INSTANTIATE_TEST_SUITE_P(AllBits, GridBits, ::testing::Range(1, 9));

TEST(Grid, OneBitOptimumIsTheMeanAbsoluteValue) {
  EXPECT_NEAR(optimal_alpha(1), std::sqrt(2 / std::numbers::pi), 1e-12);
}

TEST(Grid, OtherBitsAreRefused) {
  EXPECT_THROW(Grid::gaussian(0), Error);
  EXPECT_THROW(Grid::gaussian(9), Error);
}

}  // namespace
}  // namespace quest
