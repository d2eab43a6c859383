// A training run: steps, evaluations, samples, checkpoints and the log, until done or stopped.
#pragma once

#include <cstdint>
#include <string>

#include "train/checkpoint.h"
#include "train/run_folder.h"
#include "train/trainer.h"

namespace quest {

/// How often things happen, in steps; 0: never (a checkpoint is always made at the end).
struct RunPlan {
  std::int64_t steps = 0;
  std::int64_t log_every = 10;
  std::int64_t eval_every = 0;    ///< the end is always evaluated when there is validation data
  std::int64_t sample_every = 0;  ///< if not 0, the end is sampled too
  std::int64_t save_every = 0;
  std::int64_t keep_last = 2;
  std::uint64_t data_seed = 0;  ///< for the checkpoints
  std::string data;             ///< identity of the training data, for the checkpoints
  double peak_flops =
      0.0;  ///< this machine's dense product rate, for shares of the peak; 0: unknown
};

/// What the caller shows and decides while a run goes on.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  virtual void on_step(const StepReport& report) = 0;
  virtual void on_evaluation(std::int64_t step, const Evaluation& evaluation) = 0;
  /// A text sampled from the model as it stands; empty: none is wanted.
  virtual std::string sample(std::int64_t step, Model& model) = 0;
  virtual void on_sample(std::int64_t step, const std::string& text) = 0;
  virtual void on_checkpoint(std::int64_t step, const std::filesystem::path& folder) = 0;
  /// Asked after every step and during evaluations: true makes the run save and return.
  virtual bool stop_requested() = 0;
};

struct RunResult {
  std::int64_t steps = 0;   ///< done in all
  double train_loss = 0.0;  ///< mean over the last tenth of the steps of this process
  bool has_validation = false;
  Evaluation validation;
  double tokens_per_second = 0.0;  ///< of the steps alone, without evaluation and saving
  bool stopped = false;            ///< on request, before its last step or evaluation
};

/// Runs `trainer` to `plan.steps`. `validation` may be null. On an error or NaN the folder keeps
/// its last checkpoint. The finished model is saved in the folder itself.
RunResult run_training(Trainer& trainer, const RunPlan& plan, RunFolder& folder,
                       const Tokenizer& tokenizer, const EvalSource* validation,
                       RunObserver& observer);

}  // namespace quest
