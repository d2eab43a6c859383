// AdamWFactors: what an AdamW update multiplies by.
#pragma once

namespace quest {

/// The same for all elements of a parameter; nine floats in this order where a device reads them.
struct AdamWFactors {
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float inverse_correction1, inverse_correction2;  ///< 1 / (1 - beta^step)
  float epsilon;
  float learning_rate;
  float decay;  ///< 1 - learning_rate * weight_decay
};
inline constexpr int kAdamWFactors = sizeof(AdamWFactors) / sizeof(float);

}  // namespace quest
