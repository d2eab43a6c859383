// Speed of training steps, measured in turns.
#include "apps/bench_training.h"

#include <algorithm>
#include <memory>

#include "apps/model_settings.h"
#include "core/rng.h"

namespace quest::app {
namespace {

constexpr std::uint64_t kTokenSeed = 1;
constexpr std::int64_t kPublishedVocab = 32000;
constexpr std::int64_t kPublishedBatch = 4;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

}  // namespace

BatchSource random_tokens(const TrainerConfig& config) {
  return [rows = config.batch_size, length = config.seq_len, accum = config.grad_accum,
          vocab = config.model.vocab](std::int64_t step, std::int64_t micro, Batch& batch) {
    Rng rng(kTokenSeed, RngPurpose::kTest, static_cast<std::uint32_t>(step * accum + micro));
    batch.rows = rows;
    batch.seq_len = length;
    batch.input_tokens.resize(static_cast<std::size_t>(rows * length));
    batch.target_tokens.resize(batch.input_tokens.size());
    for (std::vector<std::int32_t>* tokens : {&batch.input_tokens, &batch.target_tokens}) {
      for (std::int32_t& token : *tokens) {
        token = static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(vocab)));
      }
    }
  };
}

std::vector<Assignment> bench_preset(const std::string& name) {
  std::vector<Assignment> assignments = model_preset(name);
  const bool published = std::any_of(assignments.begin(), assignments.end(),
                                     [](const Assignment& a) { return a.key == "train.seq_len"; });
  if (published) {
    const std::string origin = "preset " + name;
    assignments.push_back({"model.vocab", kPublishedVocab, origin});
    assignments.push_back({"train.batch_size", kPublishedBatch, origin});
  }
  return assignments;
}

double StepTimes::median_seconds() const { return median(seconds); }
double StepTimes::least_seconds() const {
  return *std::min_element(seconds.begin(), seconds.end());
}
double StepTimes::most_seconds() const { return *std::max_element(seconds.begin(), seconds.end()); }

double StepTimes::median_ms(Work kind) const {
  std::vector<double> values;
  for (const WorkTimes& times : work) {
    values.push_back(1e3 * times.seconds[static_cast<std::size_t>(kind)]);
  }
  return median(values);
}

double StepTimes::median_other_ms() const {
  std::vector<double> values;
  for (std::size_t i = 0; i < work.size(); ++i) {
    values.push_back(1e3 * (seconds[i] - work[i].total_seconds()));
  }
  return median(values);
}

double StepTimes::bound_ms(Work kind) const {
  return 1e3 * work.front().bound_seconds[static_cast<std::size_t>(kind)];
}
double StepTimes::bound_ms() const { return 1e3 * work.front().total_bound_seconds(); }

std::vector<StepTimes> time_training(Backend& backend, const Roofline& roofline,
                                     std::span<const TrainerConfig> configs, std::int64_t warmup,
                                     std::int64_t steps,
                                     const std::function<void(double, double)>& on_step) {
  std::vector<std::unique_ptr<Trainer>> trainers;
  for (const TrainerConfig& config : configs) {
    trainers.push_back(std::make_unique<Trainer>(backend, config, random_tokens(config)));
    trainers.back()->set_roofline(roofline);
  }
  // Kernel by kernel, as for times of kinds of work, a device takes longer than it does in
  // training: they are measured in steps of their own.
  const bool apart = backend.place() != Place::kHost;
  std::vector<StepTimes> times(configs.size());
  const auto total =
      static_cast<double>((warmup + steps) * static_cast<std::int64_t>(configs.size()));
  double done = 0;
  for (std::int64_t round = 0; round < warmup + steps; ++round) {
    for (std::size_t i = 0; i < trainers.size(); ++i) {
      StepReport report = trainers[i]->step(apart ? Measure::kNothing : Measure::kTimes);
      if (apart) report.work = trainers[i]->step(Measure::kTimes).work;
      if (round >= warmup) {
        times[i].seconds.push_back(report.seconds);
        times[i].work.push_back(report.work);
      }
      on_step(++done, total);
    }
  }
  return times;
}

double paired_speedup(const StepTimes& base, const StepTimes& other) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < base.seconds.size(); ++i) {
    ratios.push_back(base.seconds[i] / other.seconds[i]);
  }
  return median(ratios);
}

}  // namespace quest::app
