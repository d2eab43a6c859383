// From settings to the training library's types.
#pragma once

#include <cstdint>

#include "apps/settings.h"
#include "data/shards.h"
#include "train/plan.h"
#include "train/run.h"
#include "train/trainer.h"

namespace quest::app {

/// The steps of a run over data with `windows` windows of train.seq_len tokens. Tokens and epochs
/// are rounded up to whole steps; without any length the run is one epoch. Throws UsageError when
/// that is more than can be counted.
std::int64_t run_steps(const TrainSettings& settings, std::int64_t windows);

/// Everything that determines a run's numbers, for a run of `steps` steps. Throws UsageError when
/// the shape or scheme is wrong or the warm-up is longer than the run.
TrainerConfig trainer_config(const TrainSettings& settings, std::int64_t tokenizer_vocab,
                             std::int64_t steps);

/// How often things happen in a run of `steps` steps; the peak is left unknown.
RunPlan run_plan(const TrainSettings& settings, std::int64_t steps);

/// Whether any layer multiplies integers, so that its gradients may.
bool has_integer_products(const TrainerConfig& config);
/// The sentence for `--backward int8` under `schemes` that have none.
std::string idle_int8_text(std::string_view schemes);

/// Whose memory a run takes.
RunDevice run_device(const TrainSettings& settings);

/// What the prediction of a run's memory asks for. A data set may be null.
RunConditions run_conditions(const TrainSettings& settings, const TokenDataset* train,
                             const TokenDataset* validation);

}  // namespace quest::app
