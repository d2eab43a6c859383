// Reference kernels: gradients of the quantized product on integers with stochastic rounding.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/reference/float_access.h"
#include "backend/reference/reference_backend.h"

namespace quest {
namespace {

/// G: every float operation rounds to f32, as the definition says.
float folded(Tensor d_y, std::int64_t m, std::int64_t n, float step) {
  return static_cast<float>(load(d_y, m, n)) * (0.5f * step);
}

/// The larger magnitude; NaN where either is.
float larger(float largest, float value) {
  return std::isnan(value) || std::abs(value) > largest ? std::abs(value) : largest;
}

}  // namespace

void ReferenceBackend::integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                                 const RoundingKey& key, Write write) {
  const float* const steps = w.steps.as<float>();
  std::vector<std::int64_t> g(static_cast<std::size_t>(d_y.cols()));
  for (std::int64_t m = 0; m < d_y.rows(); ++m) {
    float largest = 0.0f;
    for (std::int64_t n = 0; n < d_y.cols(); ++n) {
      largest = larger(largest, folded(d_y, m, n, steps[n]));
    }
    const LineRounding line = LineRounding::make(largest);
    for (std::int64_t n = 0; n < d_y.cols(); ++n) {
      g[static_cast<std::size_t>(n)] =
          line.scale > 0 ? line.round(folded(d_y, m, n, steps[n]), rounding_bits(key, m, n)) : 0;
    }
    for (std::int64_t k = 0; k < d_z.cols(); ++k) {
      std::int64_t total = 0;
      for (std::int64_t n = 0; n < d_y.cols(); ++n) {
        total += g[static_cast<std::size_t>(n)] * (2 * w.codes.row<std::int8_t>(n)[k] + 1);
      }
      const double before = write == Write::kAdd ? load(d_z, m, k) : 0.0;
      store(d_z, m, k, before + double{line.scale} * static_cast<double>(total));
    }
  }
}

void ReferenceBackend::integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                                  const RoundingKey& key, Write write) {
  const float* const steps = x.steps.as<float>();
  std::vector<std::int64_t> g(static_cast<std::size_t>(std::min(kRoundedRows, d_y.rows())));
  for (std::int64_t begin = 0; begin < d_y.rows(); begin += kRoundedRows) {
    const std::int64_t end = std::min(begin + kRoundedRows, d_y.rows());
    const bool adds = write == Write::kAdd || begin > 0;
    for (std::int64_t n = 0; n < d_y.cols(); ++n) {
      float largest = 0.0f;
      for (std::int64_t m = begin; m < end; ++m) {
        largest = larger(largest, folded(d_y, m, n, steps[m]));
      }
      const LineRounding line = LineRounding::make(largest);
      for (std::int64_t m = begin; m < end; ++m) {
        g[static_cast<std::size_t>(m - begin)] =
            line.scale > 0 ? line.round(folded(d_y, m, n, steps[m]), rounding_bits(key, m, n)) : 0;
      }
      for (std::int64_t k = 0; k < d_z.cols(); ++k) {
        std::int64_t total = 0;
        for (std::int64_t m = begin; m < end; ++m) {
          total +=
              g[static_cast<std::size_t>(m - begin)] * (2 * x.codes.row<std::int8_t>(m)[k] + 1);
        }
        const double before = adds ? load(d_z, n, k) : 0.0;
        store(d_z, n, k, before + double{line.scale} * static_cast<double>(total));
      }
    }
  }
}

}  // namespace quest
