// AdamW: clipping, groups and moments.
#include "train/optimizer.h"

#include <cmath>

#include "core/error.h"

namespace quest {
namespace {

constexpr const char* kFirstPrefix = "exp_avg.";
constexpr const char* kSecondPrefix = "exp_avg_sq.";
constexpr std::size_t kScalarBytes = 128;

}  // namespace

AdamW::AdamW(Model& model, const OptimizerConfig& config)
    : model_(model),
      config_(config),
      first_(model.backend(), model.arenas().parameters.used_bytes()),
      second_(model.backend(), model.arenas().parameters.used_bytes()),
      scalars_(model.backend(), kScalarBytes),
      square_sum_(scalars_.take({1}, DType::kF64)),
      grad_scale_(scalars_.take({1}, DType::kF32)) {
  model.llama().for_each_parameter([&](const Parameter& parameter) {
    slots_.push_back({parameter, first_.take(parameter.value.shape, DType::kF32),
                      second_.take(parameter.value.shape, DType::kF32)});
  });
}

double AdamW::update(double learning_rate, std::int64_t step) {
  Backend& backend = model_.backend();
  backend.zero(square_sum_);
  backend.sum_squares(square_sum_, model_.arenas().gradients.flat_f32());
  backend.clip_scale(grad_scale_, square_sum_, static_cast<float>(config_.grad_clip));
  AdamWStep update{static_cast<float>(learning_rate),
                   static_cast<float>(config_.beta1),
                   static_cast<float>(config_.beta2),
                   static_cast<float>(config_.epsilon),
                   0.0f,
                   step};
  for (const Slot& slot : slots_) {
    update.weight_decay = slot.parameter.decayed ? static_cast<float>(config_.weight_decay) : 0.0f;
    backend.adamw(slot.parameter.value, slot.first, slot.second, slot.parameter.gradient,
                  grad_scale_, update);
  }
  double square_sum = 0.0;
  backend.copy(view_of(&square_sum, {1}), square_sum_);
  backend.synchronize();
  return std::sqrt(square_sum);
}

std::vector<NamedTensor> AdamW::moments() const {
  std::vector<NamedTensor> named;
  for (const Slot& slot : slots_) {
    named.push_back({kFirstPrefix + slot.parameter.name, slot.first});
    named.push_back({kSecondPrefix + slot.parameter.name, slot.second});
  }
  return named;
}

void AdamW::load_moments(const SafetensorsFile& file) {
  for (const NamedTensor& moment : moments()) {
    model_.backend().copy(moment.tensor,
                          file.tensor(moment.name, DType::kF32, moment.tensor.shape));
  }
  model_.backend().synchronize();
}

}  // namespace quest
