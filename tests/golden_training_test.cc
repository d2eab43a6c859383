// Five AdamW steps of the reference's tiny Llama: losses and gradient norms, on every backend.
#include <gtest/gtest.h>

#include <cctype>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "golden_files.h"
#include "model/model_file.h"
#include "train/trainer.h"

namespace quest {
namespace {

struct Case {
  const char* golden;
  const char* scheme;
};

constexpr Case kCases[] = {{"none", "none"},
                           {"quest_w4a4", "w4a4"},
                           {"quest_w2a2", "w2a2"},
                           {"quest_w1a1", "w1a1"},
                           {"ste_w4a4", "w4a4 none ste"}};

// As the goldens' README states: a few codes flip under rounding noise after the first step.
constexpr double kFirstTolerance = 1e-4;
constexpr double kLaterTolerance = 5e-3;

TrainerConfig tiny_config(const char* scheme) {
  TrainerConfig config;
  config.model.layers = 2;
  config.model.width = 128;
  config.model.heads = config.model.kv_heads = 2;
  config.model.head_dim = 64;
  config.model.hidden = 512;
  config.model.vocab = 256;
  config.model.max_positions = 64;
  config.scheme = Scheme::parse(scheme);
  config.batch_size = 4;
  config.seq_len = 64;
  config.schedule = {ScheduleKind::kConstant, 1e-3, 1.0, 0.0, 5};
  return config;
}

class GoldenTraining : public ::testing::TestWithParam<std::tuple<std::string, Case>> {};

TEST_P(GoldenTraining, FiveStepsFollowTheReference) {
  const auto& [golden, scheme] = std::get<1>(GetParam());
  QUEST_GOLDEN_OR_SKIP(weights_path, "tiny_llama_init.safetensors");
  QUEST_GOLDEN_OR_SKIP(tokens_path, "tiny_llama_tokens.safetensors");
  QUEST_GOLDEN_OR_SKIP(report_path, "tiny_llama.json");
  const SafetensorsFile tokens(tokens_path);
  const Tensor sequences = tokens.tensor("tokens", DType::kI32, {5, 4, 65});
  const auto batches = [&](std::int64_t step, std::int64_t, Batch& batch) {
    batch.rows = 4;
    batch.seq_len = 64;
    batch.input_tokens.clear();
    batch.target_tokens.clear();
    for (std::int64_t row = 0; row < 4; ++row) {
      const std::int32_t* const ids = sequences.row<std::int32_t>(step * 4 + row);
      batch.input_tokens.insert(batch.input_tokens.end(), ids, ids + 64);
      batch.target_tokens.insert(batch.target_tokens.end(), ids + 1, ids + 65);
    }
  };
  const auto backend = make_backend(std::get<0>(GetParam()));
  Trainer trainer(*backend, tiny_config(scheme), batches);
  load_weights(trainer.model(), SafetensorsFile(weights_path));

  const auto report = nlohmann::json::parse(read_file(report_path))["runs"][golden];
  for (std::size_t step = 0; step < 5; ++step) {
    const double tolerance = step == 0 ? kFirstTolerance : kLaterTolerance;
    const StepReport done = trainer.step();
    EXPECT_NEAR(done.loss, report["loss"][step].get<double>(), tolerance) << "step " << step;
    const double norm = report["grad_norm"][step].get<double>();
    EXPECT_NEAR(done.grad_norm, norm, (step == 0 ? 2e-3 : 3e-2) * norm) << "step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, GoldenTraining,
                         ::testing::Combine(::testing::ValuesIn(testable_backends()),
                                            ::testing::ValuesIn(kCases)),
                         [](const auto& test) {
                           std::string name =
                               std::get<0>(test.param) + "_" + std::get<1>(test.param).golden;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace quest
