// From settings to the training library's types.
#include "apps/train_settings.h"

#include <algorithm>
#include <cmath>

#include "apps/machine.h"
#include "apps/model_settings.h"
#include "core/error.h"
#include "train/plan_products.h"

namespace quest::app {
namespace {

double warmup_steps(const FractionOrSteps& warmup, std::int64_t steps) {
  if (warmup.is_fraction) return warmup.fraction * static_cast<double>(steps);
  if (warmup.steps > steps) {
    throw UsageError(
        fmt::format("train.warmup = {} is longer than the run of {} steps", warmup.steps, steps));
  }
  return static_cast<double>(warmup.steps);
}

}  // namespace

std::int64_t run_steps(const TrainSettings& settings, std::int64_t windows) {
  const TrainSettings::Train& train = settings.train;
  const double windows_a_step =
      static_cast<double>(train.batch_size) * static_cast<double>(train.grad_accum);
  const double epochs = train.epochs > 0 ? train.epochs : 1;
  const double wanted = train.tokens > 0
                            ? static_cast<double>(train.tokens) / static_cast<double>(train.seq_len)
                            : epochs * static_cast<double>(windows);
  const double steps =
      train.steps > 0 ? static_cast<double>(train.steps) : std::ceil(wanted / windows_a_step);
  if (steps > kMostCount) {
    throw UsageError(
        fmt::format("the run would have {:.3g} steps, but {:.0f} are the most; lower train.tokens "
                    "or train.epochs",
                    steps, kMostCount));
  }
  const double tokens = steps * windows_a_step * static_cast<double>(train.seq_len);
  if (tokens > kMostRunTokens) {
    throw UsageError(fmt::format(
        "the run would read {:.3g} tokens, but {:.0g} are the most; make it shorter, or its steps "
        "smaller",
        tokens, kMostRunTokens));
  }
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(steps));
}

TrainerConfig trainer_config(const TrainSettings& settings, std::int64_t tokenizer_vocab,
                             std::int64_t steps) {
  const TrainSettings::Train& train = settings.train;
  TrainerConfig config;
  config.model = model_config(settings, tokenizer_vocab);
  config.scheme = model_scheme(settings, config.model);
  config.compute = compute_dtype(settings);
  config.backward = train.backward == "int8" ? GradientProducts::kInt8 : GradientProducts::kFloat;
  config.recompute = recompute_from_name(train.recompute);
  config.batch_size = train.batch_size;
  config.grad_accum = train.grad_accum;
  config.seq_len = train.seq_len;
  config.schedule.kind = schedule_from_name(train.schedule);
  config.schedule.peak = train.lr;
  config.schedule.final_fraction = train.final_lr_fraction;
  config.schedule.warmup_steps = warmup_steps(train.warmup, steps);
  config.schedule.total_steps = steps;
  config.optimizer.beta1 = train.beta1;
  config.optimizer.beta2 = train.beta2;
  config.optimizer.epsilon = train.adam_eps;
  config.optimizer.weight_decay = train.weight_decay;
  config.optimizer.grad_clip = train.grad_clip;
  config.optimizer.moment_bits = std::stoi(train.optimizer_bits);
  config.seed = static_cast<std::uint64_t>(train.seed);
  return config;
}

RunPlan run_plan(const TrainSettings& settings, std::int64_t steps) {
  const TrainSettings::Train& train = settings.train;
  RunPlan plan;
  plan.steps = steps;
  plan.log_every = train.log_every;
  plan.eval_every = train.eval_every;
  plan.sample_every = train.sample_every;
  plan.save_every = train.save_every;
  plan.keep_last = train.keep_last;
  plan.data_seed = static_cast<std::uint64_t>(train.data_seed);
  return plan;
}

bool has_integer_products(const TrainerConfig& config) {
  bool has = false;
  for_each_product(config, [&](auto, auto, auto, const LinearScheme& scheme) {
    has = has || scheme.integer_product();
  });
  return has;
}

std::string idle_int8_text(std::string_view schemes) {
  return fmt::format(
      "--backward int8 changes nothing: no layer of scheme {} multiplies integers, so gradients "
      "are products of floats",
      schemes);
}

RunDevice run_device(const TrainSettings& settings) {
  if (settings.run.device == "cpu") return RunDevice::kCpu;
  return settings.run.device == "reference" ? RunDevice::kReference : RunDevice::kCuda;
}

RunConditions run_conditions(const TrainSettings& settings, const TokenDataset* train,
                             const TokenDataset* validation) {
  RunConditions conditions;
  conditions.device = run_device(settings);
  conditions.threads = settings.run.threads > 0 ? static_cast<int>(settings.run.threads)
                                                : describe_machine().threads;
  for (const TokenDataset* data : {train, validation}) {
    if (data == nullptr) continue;
    conditions.data_bytes += data->bytes();
    if (data->mapped()) continue;
    conditions.loading_bytes = std::max(conditions.loading_bytes, data->bytes());
  }
  conditions.samples = settings.train.sample_every > 0;
  return conditions;
}

}  // namespace quest::app
