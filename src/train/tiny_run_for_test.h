// A training run small enough for tests: its model, its batches, and what is left of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/rng.h"
#include "data/tokenizer.h"
#include "train/run.h"
#include "train/trainer.h"

namespace quest {

/// Two blocks with grouped queries over the 256 tokens of the byte tokenizer; 4 sequences of 8
/// tokens a step.
inline TrainerConfig tiny_run_config(const std::string& scheme = "w4a4",
                                     DType compute = DType::kF32) {
  TrainerConfig config;
  config.model.layers = 2;
  config.model.width = 32;
  config.model.heads = 2;
  config.model.kv_heads = 1;
  config.model.head_dim = 16;
  config.model.hidden = 64;
  config.model.vocab = 256;
  config.model.max_positions = 8;
  config.scheme = Scheme::parse(scheme);
  config.compute = compute;
  config.batch_size = 2;
  config.grad_accum = 2;
  config.seq_len = 8;
  config.schedule = {ScheduleKind::kCosine, 1e-2, 0.1, 2.0, 6};
  config.seed = 3;
  return config;
}

/// Fills sequence `number` of a run: letters in a pattern that can be learned.
inline void fill_sequence(Batch& batch, std::int64_t number, std::int64_t length) {
  Rng rng(9, RngPurpose::kTest, static_cast<std::uint32_t>(number));
  auto token = static_cast<std::int32_t>('a' + rng.below(26));
  for (std::int64_t t = 0; t < length; ++t) {
    batch.input_tokens.push_back(token);
    token = 'a' + (token - 'a' + 1 + static_cast<std::int32_t>(rng.below(3))) % 26;
    batch.target_tokens.push_back(token);
  }
}

/// Sequence (step, micro, row) in order, however a step is cut into micro-batches.
inline BatchSource tiny_batches(const TrainerConfig& config) {
  const std::int64_t rows = config.batch_size;
  const std::int64_t accum = config.grad_accum;
  const std::int64_t length = config.seq_len;
  return [=](std::int64_t step, std::int64_t micro, Batch& batch) {
    batch.rows = rows;
    batch.seq_len = length;
    batch.input_tokens.clear();
    batch.target_tokens.clear();
    for (std::int64_t row = 0; row < rows; ++row) {
      fill_sequence(batch, (step * accum + micro) * rows + row, length);
    }
  };
}

/// The bits of all weights and moments, to compare two trainers.
inline std::vector<float> weights_of(Trainer& trainer) {
  std::vector<float> all;
  trainer.model().llama().for_each_parameter([&](const Parameter& parameter) {
    const float* const values = parameter.value.as<float>();
    all.insert(all.end(), values, values + parameter.value.numel());
  });
  return all;
}
inline std::vector<float> moments_of(Trainer& trainer) {
  std::vector<float> all;
  for (const NamedTensor& moment : trainer.optimizer().moments()) {
    const float* const values = moment.tensor.as<float>();
    all.insert(all.end(), values, values + moment.tensor.numel());
  }
  return all;
}
inline std::vector<float> gradients_of(Trainer& trainer) {
  std::vector<float> all;
  trainer.model().llama().for_each_parameter([&](const Parameter& parameter) {
    const float* const values = parameter.gradient.as<float>();
    all.insert(all.end(), values, values + parameter.gradient.numel());
  });
  return all;
}

/// Keeps what happened; asks to stop after `stop_after` steps (0: never).
class RecordingObserver : public RunObserver {
 public:
  explicit RecordingObserver(std::int64_t stop_after = 0) : stop_after_(stop_after) {}

  void on_step(const StepReport& report) override {
    losses.push_back(report.loss);
    last_step_ = report.step;
  }
  void on_evaluation(std::int64_t step, const Evaluation&) override { evaluations.push_back(step); }
  std::string sample(std::int64_t, Model&) override { return sample_text; }
  void on_sample(std::int64_t step, const std::string&) override { samples.push_back(step); }
  void on_checkpoint(std::int64_t step, const std::filesystem::path&) override {
    checkpoints.push_back(step);
  }
  bool stop_requested() override { return stop_after_ > 0 && last_step_ >= stop_after_; }

  std::string sample_text;
  std::vector<double> losses;
  std::vector<std::int64_t> evaluations;
  std::vector<std::int64_t> samples;
  std::vector<std::int64_t> checkpoints;

 private:
  std::int64_t stop_after_;
  std::int64_t last_step_ = 0;
};

}  // namespace quest
