// AdamW: clipping, groups and moments.
#include "train/optimizer.h"

#include "core/error.h"

namespace quest {
namespace {

constexpr const char* kFirstPrefix = "exp_avg.";
constexpr const char* kSecondPrefix = "exp_avg_sq.";
constexpr const char* kScalesSuffix = ".scales";
constexpr std::size_t kScalarBytes = 192;

AdamWStep step_of(const OptimizerConfig& config, double weight_decay) {
  return {0.0f,
          static_cast<float>(config.beta1),
          static_cast<float>(config.beta2),
          static_cast<float>(config.epsilon),
          static_cast<float>(weight_decay),
          0};
}

}  // namespace

AdamW::AdamW(Model& model, const OptimizerConfig& config)
    : model_(model),
      config_(config),
      scalars_(model.backend(), kScalarBytes),
      grad_scale_(scalars_.take({1}, DType::kF32)),
      decayed_(step_of(config, config.weight_decay)),
      undecayed_(step_of(config, 0.0)) {
  if (model.backend().place() != Place::kHost) {
    decayed_.on_device = scalars_.take({kAdamWFactors}, DType::kF32);
    undecayed_.on_device = scalars_.take({kAdamWFactors}, DType::kF32);
  }
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

void AdamW::begin_step(double learning_rate, std::int64_t step) {
  for (AdamWStep* const update : {&decayed_, &undecayed_}) {
    update->learning_rate = static_cast<float>(learning_rate);
    update->step = step;
    if (!update->on_device) continue;
    const AdamWFactors factors = adamw_factors(*update);
    model_.backend().copy(update->on_device, view_of(&factors.beta1, {kAdamWFactors}));
  }
}

void AdamW::update(Tensor sums) {
  Backend& backend = model_.backend();
  const Tensor square_sum = sums.rows_slice(sums.numel() - 1, sums.numel());
  backend.zero(square_sum);
  backend.sum_squares(square_sum, model_.arenas().gradients.flat_f32());
  backend.clip_scale(grad_scale_, sums, static_cast<float>(config_.grad_clip));
  for (const Slot& slot : slots_) {
    backend.adamw(slot.parameter.value, slot.first, slot.second, slot.parameter.gradient,
                  grad_scale_, slot.parameter.decayed ? decayed_ : undecayed_);
  }
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
