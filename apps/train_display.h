// What a user sees of a training run: the opening block, the progress and the samples.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "apps/progress.h"
#include "apps/run_data.h"
#include "apps/settings.h"
#include "apps/stop_signal.h"
#include "train/run.h"

namespace quest::app {

/// How long a run will take: the seconds of a step, measured (0 when they are not known), and how
/// many steps a run that goes on has left.
struct Pace {
  double step_seconds = 0;
  std::int64_t steps_left = 0;
};

/// The block before the first step: model, scheme, data, memory by part and expected time.
std::string opening_text(const TrainSettings& settings, const TrainerConfig& config,
                         const RunData& data, const RunPlan& plan, const std::string& backend,
                         const Pace& pace = {});

/// Shows a run on stderr and samples from its model.
class TrainDisplay : public RunObserver {
 public:
  TrainDisplay(const TrainSettings& settings, const TrainerConfig& config, const RunData& data,
               std::int64_t steps)
      : settings_(settings), config_(config), data_(data), steps_(steps) {}

  void on_step(const StepReport& report) override;
  void on_evaluation(std::int64_t step, const Evaluation& evaluation) override;
  std::string sample(std::int64_t step, Model& model) override;
  void on_sample(std::int64_t step, const std::string& text) override;
  void on_checkpoint(std::int64_t step, const std::filesystem::path& folder) override;
  bool stop_requested() override { return stop_.requested(); }

  const StopSignal& stop_signal() const { return stop_; }
  /// Prints one line above the progress.
  void note(const std::string& text) { progress_.line(text); }
  void finish() { progress_.finish(); }

 private:
  const TrainSettings& settings_;
  const TrainerConfig& config_;
  const RunData& data_;
  std::int64_t steps_;
  StopSignal stop_;
  Progress progress_;
  std::optional<double> validation_loss_;
};

}  // namespace quest::app
