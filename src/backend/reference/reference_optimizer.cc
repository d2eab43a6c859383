// ReferenceBackend: sums over parameters and the AdamW update.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/reference/reference_backend.h"

namespace quest {
namespace {

constexpr double kFirstCodes = 127, kSecondCodes = 255;

double first_value(const Moment& moment, std::int64_t i) {
  if (moment.values.dtype == DType::kF32) return double{moment.values.as<float>()[i]};
  if (moment.values.dtype == DType::kBF16) return double{to_float(moment.values.as<BFloat16>()[i])};
  const double root = moment.values.as<std::int8_t>()[i] / kFirstCodes;
  return moment.scales.as<float>()[i / kMomentBlock] * root * std::abs(root);
}

double second_value(const Moment& moment, std::int64_t i) {
  if (moment.values.dtype == DType::kF32) return double{moment.values.as<float>()[i]};
  if (moment.values.dtype == DType::kBF16) return double{to_float(moment.values.as<BFloat16>()[i])};
  const double root = moment.values.as<std::uint8_t>()[i] / kSecondCodes;
  return moment.scales.as<float>()[i / kMomentBlock] * root * root * root * root;
}

// Stores values [begin, begin + count), one block where the moment has codes. `code` gives the code
// of a value divided by the largest magnitude.
template <typename Code, typename CodeOf>
void store_block(const Moment& moment, std::int64_t begin, const double* values, std::int64_t count,
                 CodeOf code_of) {
  double largest = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
  for (std::int64_t i = 0; i < count; ++i) {
    if (moment.values.dtype == DType::kF32) {
      moment.values.as<float>()[begin + i] = static_cast<float>(values[i]);
    } else if (moment.values.dtype == DType::kBF16) {
      moment.values.as<BFloat16>()[begin + i] = to_bfloat16(static_cast<float>(values[i]));
    } else {
      const double share = largest > 0 ? values[i] / largest : 0;
      moment.values.as<Code>()[begin + i] = static_cast<Code>(code_of(share));
    }
  }
  if (moment.scales) {
    moment.scales.as<float>()[begin / kMomentBlock] = static_cast<float>(largest);
  }
}

}  // namespace

void ReferenceBackend::sum(Tensor total, Tensor x) {
  const float* const values = x.as<float>();
  for (std::int64_t i = 0; i < x.numel(); ++i) *total.as<double>() += values[i];
}

void ReferenceBackend::sum_squares(Tensor total, Tensor x) {
  const float* const values = x.as<float>();
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    *total.as<double>() += double{values[i]} * values[i];
  }
}

void ReferenceBackend::clip_scale(Tensor scale, Tensor sums, float max_norm) {
  const double* const all = sums.as<double>();
  const std::int64_t count = sums.numel();
  double factor = 1.0;
  if (max_norm > 0) factor = std::min(1.0, max_norm / (std::sqrt(all[count - 1]) + 1e-6));
  for (std::int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(all[i])) factor = std::numeric_limits<double>::quiet_NaN();
  }
  *scale.as<float>() = static_cast<float>(factor);
}

void ReferenceBackend::adamw(Tensor parameter, const Moment& first, const Moment& second,
                             Tensor gradient, Tensor grad_scale, const AdamWStep& step) {
  const double scale = *grad_scale.as<float>();
  if (std::isnan(scale)) return;
  const double correction1 = 1.0 - std::pow(double{step.beta1}, static_cast<double>(step.step));
  const double correction2 = 1.0 - std::pow(double{step.beta2}, static_cast<double>(step.step));
  for (std::int64_t begin = 0; begin < parameter.numel(); begin += kMomentBlock) {
    const std::int64_t count = std::min(kMomentBlock, parameter.numel() - begin);
    double m[kMomentBlock], v[kMomentBlock];
    for (std::int64_t i = 0; i < count; ++i) {
      float& p = parameter.as<float>()[begin + i];
      const double g = gradient.as<float>()[begin + i] * scale;
      m[i] = step.beta1 * first_value(first, begin + i) + (1.0 - step.beta1) * g;
      v[i] = step.beta2 * second_value(second, begin + i) + (1.0 - step.beta2) * g * g;
      const double update = (m[i] / correction1) / (std::sqrt(v[i] / correction2) + step.epsilon);
      p = static_cast<float>(p * (1.0 - double{step.learning_rate} * step.weight_decay) -
                             step.learning_rate * update);
    }
    store_block<std::int8_t>(first, begin, m, count, [](double share) {
      return std::copysign(std::nearbyint(kFirstCodes * std::sqrt(std::abs(share))), share);
    });
    store_block<std::uint8_t>(second, begin, v, count, [](double share) {
      return share > 0 ? std::max(1.0, std::nearbyint(kSecondCodes * std::sqrt(std::sqrt(share))))
                       : 0.0;
    });
  }
}

}  // namespace quest
