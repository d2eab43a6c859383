// AdamW: clipping, groups and moments.
#include "train/optimizer.h"

#include <cmath>

#include "core/error.h"

namespace quest {
namespace {

constexpr const char* kFirstPrefix = "exp_avg.";
constexpr const char* kSecondPrefix = "exp_avg_sq.";
constexpr const char* kScalesSuffix = ".scales";
constexpr std::size_t kScalarBytes = 128;

}  // namespace

AdamW::AdamW(Model& model, const OptimizerConfig& config)
    : model_(model),
      config_(config),
      scalars_(model.backend(), kScalarBytes),
      square_sum_(scalars_.take({1}, DType::kF64)),
      grad_scale_(scalars_.take({1}, DType::kF32)) {
  Arena measuring;
  take_slots(measuring);
  moments_ = Arena(model.backend(), measuring.used_bytes());
  slots_ = take_slots(moments_);
}

std::vector<AdamW::Slot> AdamW::take_slots(Arena& moments) const {
  const auto take = [&](const Shape& shape, DType codes) -> Moment {
    if (config_.moment_bits == 32) return {moments.take(shape, DType::kF32), {}};
    if (config_.moment_bits == 16) return {moments.take(shape, DType::kBF16), {}};
    const std::int64_t blocks = (shape.numel() + kMomentBlock - 1) / kMomentBlock;
    return {moments.take(shape, codes), moments.take({blocks}, DType::kF32)};
  };
  std::vector<Slot> slots;
  model_.llama().for_each_parameter([&](const Parameter& parameter) {
    const Moment first = take(parameter.value.shape, DType::kI8);
    slots.push_back({parameter, first, take(parameter.value.shape, DType::kU8)});
  });
  return slots;
}

std::size_t AdamW::measure(std::size_t parameter_bytes, int moment_bits) {
  const std::size_t count = parameter_bytes / sizeof(float);
  const std::size_t scales =
      moment_bits == 8 ? count / static_cast<std::size_t>(kMomentBlock) * sizeof(float) : 0;
  return 2 * (count * static_cast<std::size_t>(moment_bits) / 8 + scales);
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
    const auto add = [&](const char* prefix, const Moment& moment) {
      named.push_back({prefix + slot.parameter.name, moment.values});
      if (moment.scales) {
        named.push_back({prefix + slot.parameter.name + kScalesSuffix, moment.scales});
      }
    };
    add(kFirstPrefix, slot.first);
    add(kSecondPrefix, slot.second);
  }
  return named;
}

void AdamW::load_moments(const SafetensorsFile& file) {
  for (const NamedTensor& moment : moments()) {
    model_.backend().copy(moment.tensor,
                          file.tensor(moment.name, moment.tensor.dtype, moment.tensor.shape));
  }
  model_.backend().synchronize();
}

}  // namespace quest
