// Grid: the quantization levels that minimize the mean squared error on a Gaussian.
#pragma once

#include <cstdint>

namespace quest {

/// Lowest and highest number of bits that a quantized side may have, and the number that stands for
/// "not quantized".
inline constexpr int kMinBits = 1;
inline constexpr int kMaxBits = 8;
inline constexpr int kUnquantizedBits = 16;

/// Added to the clip point so that an all-zero row divides by a positive step.
inline constexpr float kScaleEpsilon = 1e-8f;

/// A symmetric mid-rise grid of 2^bits equidistant levels without a zero level:
/// level(q) = (q + 1/2) step for q in [-2^(bits-1), 2^(bits-1) - 1], with
/// step = 2 (alpha rms + 1e-8) / (2^bits - 1) for a row of root mean square `rms`.
struct Grid {
  int bits;
  /// Clip point in units of the row's rms: the outermost level.
  double alpha;

  /// The grid with the published constant (arXiv 2502.05003), which parity with its results needs.
  /// Throws Error when `bits` is not in 1..8.
  static Grid gaussian(int bits);
  /// The grid with the true minimizer of E[(x - Q(x))^2], x ~ N(0, 1), found by `optimal_alpha`.
  static Grid optimal(int bits);

  int levels() const { return 1 << bits; }
  std::int32_t min_code() const { return -(1 << (bits - 1)); }
  std::int32_t max_code() const { return (1 << (bits - 1)) - 1; }
  /// E[(x - Q(x))^2] for x ~ N(0, 1), in closed form.
  double gaussian_mse() const;
};

/// Moments of the unit grid with clip point `alpha` on N(0, 1), in closed form.
struct GridMoments {
  double mse;          ///< E[(x - Q(x))^2]
  double correlation;  ///< E[x Q(x)]
  double power;        ///< E[Q(x)^2]; equals `correlation` at the optimum
};
GridMoments gaussian_moments(int bits, double alpha);

/// The clip point that minimizes the mean squared error on N(0, 1): the root of
/// E[x Q(x)] = E[Q(x)^2], by bisection to 1e-14.
double optimal_alpha(int bits);

}  // namespace quest
