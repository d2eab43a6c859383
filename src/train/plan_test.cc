// Tests of the prediction of memory against what a step really takes.
#include "train/plan.h"

#include <gtest/gtest.h>

#include "backend/cpu/cpu_backend.h"

namespace quest {
namespace {

constexpr double kMiB = 1 << 20;

TrainerConfig config_for(const std::string& scheme, DType compute) {
  TrainerConfig config;
  config.model = ModelConfig::preset("nano", 256);
  config.batch_size = 4;
  config.model.max_positions = config.seq_len = 128;
  config.scheme = Scheme::parse(scheme);
  config.compute = compute;
  return config;
}

TEST(RunMemory, WorkspaceIsWhatTheKernelsOfAStepAskFor) {
  for (const std::string scheme : {"none", "w4a4", "w2a2", "w1a4", "w2a16", "w1a1", "w4a4 int8"}) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const bool int8 = scheme.ends_with(" int8");
      TrainerConfig config = config_for(scheme.substr(0, scheme.find(" int8")), compute);
      if (int8) config.backward = GradientProducts::kInt8;
      CpuBackend backend(2);
      Trainer trainer(backend, config, [&](std::int64_t, std::int64_t, Batch& batch) {
        batch.rows = config.batch_size;
        batch.seq_len = config.seq_len;
        batch.input_tokens.assign(static_cast<std::size_t>(batch.rows * batch.seq_len), 1);
        batch.target_tokens = batch.input_tokens;
      });
      trainer.step(Measure::kTimesAndErrors);
      const RunConditions conditions{.threads = 2};
      const auto predicted = static_cast<double>(predict_run_memory(config, conditions).workspace);
      const auto taken = static_cast<double>(backend.workspace_bytes());
      EXPECT_NEAR(predicted / kMiB, taken / kMiB, 1.5 + 0.1 * taken / kMiB)
          << scheme << " " << name(compute);
    }
  }
}

TEST(RunMemory, ReadingTextCanBeThePeak) {
  const TrainerConfig config = config_for("w4a4", DType::kF32);
  const RunConditions none{.threads = 1};
  RunConditions shards = none;
  shards.data_bytes = std::size_t{1} << 30;
  RunConditions text = shards;
  text.loading_bytes = text.data_bytes;
  const std::size_t without = predict_run_memory(config, none).total();
  EXPECT_EQ(predict_run_memory(config, shards).total(), without + shards.data_bytes);
  EXPECT_GT(predict_run_memory(config, text).total(), 2 * text.data_bytes);
  EXPECT_LT(predict_run_memory(config, text).total(), without + 2 * text.data_bytes);
}

TEST(RunMemory, SamplingTakesItsCacheAndAPass) {
  const TrainerConfig config = config_for("w4a4", DType::kF32);
  const RunConditions sampled{.threads = 1, .samples = true};
  const RunMemory memory = predict_run_memory(config, sampled);
  // Keys and values in f32 at least.
  EXPECT_GE(memory.sampling,
            static_cast<std::size_t>(config.model.layers * config.model.max_positions * 2 *
                                     config.model.kv_width() * 4));
  EXPECT_EQ(memory.total(), predict_run_memory(config, {.threads = 1}).total() + memory.sampling);
}

}  // namespace
}  // namespace quest
