// The constants of the Gaussian grids, and the solver that checks them.
#include "quant/grid.h"

#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/error.h"

namespace quest {
namespace {

// Clip points as published; index bits - 1.
constexpr std::array<double, kMaxBits> kPublishedAlpha = {
    0.7978845587140913, 1.4935346200015913, 2.051068354131873,  2.513930578568423,
    2.9160938834961225, 3.276597282593217,  3.6010497188221655, 3.884938678807525};

void check_bits(int bits) {
  if (bits < kMinBits || bits > kMaxBits) {
    fail("a grid has {} to {} bits, not {}", kMinBits, kMaxBits, bits);
  }
}

double density(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi); }
double upper_tail(double x) { return 0.5 * std::erfc(x / std::numbers::sqrt2); }

}  // namespace

Grid Grid::gaussian(int bits) {
  check_bits(bits);
  return {bits, kPublishedAlpha[static_cast<std::size_t>(bits - 1)]};
}

Grid Grid::optimal(int bits) {
  check_bits(bits);
  return {bits, optimal_alpha(bits)};
}

double Grid::gaussian_mse() const { return gaussian_moments(bits, alpha).mse; }

GridMoments gaussian_moments(int bits, double alpha) {
  // By symmetry twice the sum over the positive levels: level (i + 1/2) step owns [i step, (i+1)
  // step), the last one everything above.
  const int half = 1 << (bits - 1);
  const double step = 2.0 * alpha / ((1 << bits) - 1);
  double correlation = 0.0;
  double power = 0.0;
  for (int i = 0; i < half; ++i) {
    const double level = (i + 0.5) * step;
    const double low = i * step;
    const bool last = i == half - 1;
    const double high = low + step;
    const double probability = upper_tail(low) - (last ? 0.0 : upper_tail(high));
    const double first_moment = density(low) - (last ? 0.0 : density(high));
    correlation += 2.0 * level * first_moment;
    power += 2.0 * level * level * probability;
  }
  return {1.0 - 2.0 * correlation + power, correlation, power};
}

double optimal_alpha(int bits) {
  check_bits(bits);
  double low = 0.1;
  double high = 8.0;
  // E[x Q] - E[Q^2] falls through zero once: small grids underestimate, large ones overestimate.
  while (high - low > 1e-14 * high) {
    const double middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) break;
    const GridMoments moments = gaussian_moments(bits, middle);
    (moments.correlation > moments.power ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

}  // namespace quest
