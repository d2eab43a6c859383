// Trainer: the optimization step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/timing_backend.h"
#include "data/loader.h"
#include "model/backward.h"
#include "model/model.h"
#include "train/evaluation.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace quest {

/// What the two gradients of an integer product are computed in: floats of the compute type, or
/// integers after stochastic rounding of the output gradient to 8 bits.
enum class GradientProducts : std::uint8_t { kFloat, kInt8 };
/// "float", "int8".
std::string_view gradient_products_name(GradientProducts products);

/// Everything that determines the numbers of a run, given the data.
struct TrainerConfig {
  ModelConfig model;
  Scheme scheme;
  DType compute = DType::kF32;
  GradientProducts backward = GradientProducts::kFloat;
  Recompute recompute = Recompute::kNone;
  std::int64_t batch_size = 1;  ///< sequences of a micro-batch
  std::int64_t grad_accum = 1;  ///< micro-batches of a step
  std::int64_t seq_len = 1;
  Schedule schedule;
  OptimizerConfig optimizer;
  std::uint64_t seed = 0;  ///< of the initial weights and of the rounding of gradients

  std::int64_t tokens_per_step() const { return batch_size * grad_accum * seq_len; }
};

/// Fills micro-batch `micro` of step `step`; a pure function of the two.
using BatchSource = std::function<void(std::int64_t step, std::int64_t micro, Batch& batch)>;

/// What a step tells besides its losses. To keep times it runs kernel by kernel (TimingBackend).
enum class Measure : std::uint8_t { kNothing, kTimes, kTimesAndErrors };

/// What one step did.
struct StepReport {
  std::int64_t step = 0;  ///< steps done, this one included
  double loss = 0.0;      ///< mean over the step's tokens, nats
  double grad_norm = 0.0;
  double learning_rate = 0.0;
  double seconds = 0.0;
  WorkTimes work;                  ///< zeros unless asked for
  std::vector<LayerError> errors;  ///< empty unless asked for
};

/// Holds a model in training. `backend` must outlive it.
class Trainer {
 public:
  Trainer(Backend& backend, const TrainerConfig& config, BatchSource batches);

  /// One optimizer step; the device is waited for once, at its end. Throws NonFiniteError that
  /// names where NaN or infinity was first seen; the weights and moments are then those of the step
  /// before.
  StepReport step(Measure measure = Measure::kNothing);

  /// Seconds of one micro-batch of the next step, measured by running it; changes no result.
  double time_micro_batch();

  /// The loss on held-out data, through the same forward pass as training.
  Evaluation evaluate(const EvalSource& source, const Tokenizer& tokenizer);

  /// Throws NonFiniteError that names the first weight that is NaN or infinite.
  void require_finite_weights();

  /// From now on reports hold the least time of each kind of work (WorkTimes::bound_seconds).
  void set_roofline(const Roofline& roofline) { backend_.set_roofline(roofline); }

  std::int64_t steps_done() const { return steps_done_; }
  const TrainerConfig& config() const { return config_; }
  Model& model() { return model_; }
  AdamW& optimizer() { return optimizer_; }
  /// Continues after `steps` steps; the caller has set weights and moments.
  void resume_at(std::int64_t steps) { steps_done_ = steps; }

  /// Bytes by what they are for.
  struct Bytes {
    ModelBytes model;
    std::size_t optimizer = 0;
    std::size_t activations = 0;

    std::size_t total() const { return model.total() + optimizer + activations; }
  };
  static Bytes measure(const TrainerConfig& config);

 private:
  // What a micro-batch reads, brought to the device; and what it runs then.
  void load_micro_batch(std::int64_t micro);
  void run_micro_batch(std::int64_t micro, std::vector<LayerError>* errors = nullptr);
  RoundingKeys rounding_keys(std::int64_t micro) const;
  void prepare_step();
  void update();
  Tensor loss_sum() const { return sums_.rows_slice(0, 1); }
  double read_loss_sum();
  [[noreturn]] void report_non_finite(const char* what);

  TimingBackend backend_;
  TrainerConfig config_;
  BatchSource batches_;
  Model model_;
  AdamW optimizer_;
  Arena memory_;
  Activations activations_;
  Tensor tokens_;   // i32 [B * T]
  Tensor targets_;  // i32 [B * T]
  Tensor sums_;     // f64 [2]: of the step's losses, and of its gradients' squares
  Arena keys_memory_;
  Tensor rounding_words_;  // u32 [keys of a micro-batch, 2], where a device reads them; else null
  // The parts of a step. The first micro-batch sets gradients, to which others add.
  std::unique_ptr<Recording> preparation_, first_micro_batch_, micro_batch_, update_;
  Batch batch_;
  std::int64_t steps_done_ = 0;
};

}  // namespace quest
