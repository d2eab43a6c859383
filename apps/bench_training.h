// Speed of training steps: several configurations measured in turns, so that ratios between them
// hold on a machine whose speed drifts.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "apps/settings.h"
#include "train/trainer.h"

namespace quest::app {

/// Windows of uniform random tokens, the same for the same step and micro-batch: the time of a step
/// does not depend on what they say.
BatchSource random_tokens(const TrainerConfig& config);

/// The PresetLookup of benchmarks: `model_preset`, with the vocabulary of 32,000 and 4 sequences a
/// batch for the published sizes.
std::vector<Assignment> bench_preset(const std::string& name);

/// Timed steps of one configuration, in order.
struct StepTimes {
  std::vector<double> seconds;
  std::vector<WorkTimes> work;

  double median_seconds() const;
  double least_seconds() const;
  double most_seconds() const;
  /// Median milliseconds of one kind of work, and of what is booked nowhere.
  double median_ms(Work kind) const;
  double median_other_ms() const;
  /// Milliseconds that the roofline allows that kind of work, and the step.
  double bound_ms(Work kind) const;
  double bound_ms() const;
};

/// Takes `warmup` and then `steps` timed training steps of each configuration on random tokens, one
/// step of each in turn; all models are in memory together. `on_step(done, total)` after each.
std::vector<StepTimes> time_training(Backend& backend, const Roofline& roofline,
                                     std::span<const TrainerConfig> configs, std::int64_t warmup,
                                     std::int64_t steps,
                                     const std::function<void(double, double)>& on_step);

/// Median over the rounds of `base`'s seconds divided by `other`'s in the same round: how many
/// times as fast `other` is.
double paired_speedup(const StepTimes& base, const StepTimes& other);

}  // namespace quest::app
