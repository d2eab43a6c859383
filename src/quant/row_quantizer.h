// RowQuantizer: everything that turns one row of values into codes and a mask, resolved to numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "quant/grid.h"
#include "quant/hadamard.h"
#include "quant/scheme.h"

namespace quest {

/// How a row v of K values is quantized (method: sections 1 to 3):
///
///   z = v H;  rms = sqrt(mean z^2);  s = alpha rms + 1e-8;  step = 2 s / (2^b - 1)
///   code q = clamp(floor(z / step), -2^(b-1), 2^(b-1) - 1);  level = (q + 1/2) step
///
/// A tie (z on the border of two cells) takes the upper code. A row that holds NaN or infinity gets
/// codes 0, mask 0 and step NaN, so that the loss shows it.
struct RowQuantizer {
  Grid grid{};
  Estimator estimator = Estimator::kTrust;
  double kappa = 1.0;
  std::int64_t block = 1;  ///< Hadamard block; 1: no rotation

  /// For rows of `columns` values; `side.quantized()` must hold.
  static RowQuantizer make(const SideScheme& side, Transform transform, std::int64_t columns) {
    return {Grid::gaussian(side.bits), side.estimator, side.kappa,
            transform == Transform::kHadamard ? hadamard_block(columns) : 1};
  }

  /// Whether backward needs a mask at all.
  bool has_mask() const { return estimator != Estimator::kSte; }

  /// s for a row of root mean square `rms`.
  template <typename T>
  T clip_point(T rms) const {
    return static_cast<T>(grid.alpha) * rms + static_cast<T>(kScaleEpsilon);
  }
  template <typename T>
  T step(T rms) const {
    return 2 * clip_point(rms) / static_cast<T>(grid.levels() - 1);
  }
  /// The code of a rotated value.
  template <typename T>
  std::int32_t code(T z, T step) const {
    return static_cast<std::int32_t>(std::clamp(
        std::floor(z / step), static_cast<T>(grid.min_code()), static_cast<T>(grid.max_code())));
  }
  /// The gradient of a rotated value z passes where |z| <= mask_bound(rms).
  ///
  /// For trust this is the published |level - z| <= alpha rms / (2^b - 1), rewritten so that a
  /// value near the border of two inner cells cannot fail it by rounding. A row smaller than the
  /// epsilon in its clip point passes nothing, as in the reference; for clip and STE it passes all.
  template <typename T>
  T mask_bound(T rms) const {
    const T outermost = static_cast<T>(grid.alpha) * rms;
    switch (estimator) {
      case Estimator::kTrust: {
        const T levels = static_cast<T>(grid.levels());
        return outermost > static_cast<T>(kScaleEpsilon) ? outermost * (levels / (levels - 1))
                                                         : T(-1);
      }
      case Estimator::kClip:
        return static_cast<T>(kappa) * clip_point(rms);
      case Estimator::kSte:
        break;
    }
    return std::numeric_limits<T>::infinity();
  }
};

}  // namespace quest
