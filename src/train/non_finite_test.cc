// Tests of diverging steps: they stop with a name, and leave weights and moments as they were.
#include "train/non_finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "core/error.h"
#include "data/test_folder.h"
#include "train/tiny_run_for_test.h"

namespace quest {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A scheme, and "_int8" after it for gradients on integers.
class NonFinite : public ::testing::TestWithParam<std::string> {
 protected:
  Trainer make(double rate = 1e-3) {
    config_ = tiny_run_config(GetParam().substr(0, GetParam().find('_')));
    if (GetParam().ends_with("_int8")) config_.backward = GradientProducts::kInt8;
    config_.schedule = {ScheduleKind::kConstant, rate, 1.0, 0.0, 10};
    return Trainer(*backend_, config_, tiny_batches(config_));
  }
  // The text of the NonFiniteError of the next step, which must change nothing.
  std::string stopped_step(Trainer& trainer) {
    const auto bits = [](const std::vector<float>& values) {
      return std::string(reinterpret_cast<const char*>(values.data()), 4 * values.size());
    };
    const std::string weights = bits(weights_of(trainer));
    const std::string moments = bits(moments_of(trainer));
    const std::int64_t steps = trainer.steps_done();
    std::string text;
    try {
      trainer.step();
      ADD_FAILURE() << "the step did not stop";
    } catch (const NonFiniteError& error) {
      text = error.what();
      EXPECT_EQ(error.exit_code(), 3);
    }
    EXPECT_EQ(trainer.steps_done(), steps);
    EXPECT_TRUE(bits(weights_of(trainer)) == weights) << "the weights changed";
    EXPECT_TRUE(bits(moments_of(trainer)) == moments) << "the moments changed";
    return text;
  }
  void set(Trainer& trainer, const std::string& name, float value) {
    int found = 0;
    trainer.model().llama().for_each_parameter([&](const Parameter& parameter) {
      if (parameter.name != name) return;
      parameter.value.as<float>()[3] = value;
      ++found;
    });
    ASSERT_EQ(found, 1) << name;
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
  TrainerConfig config_;
};

TEST_P(NonFinite, AHugeLearningRateStopsWithinAFewStepsNamingALayer) {
  Trainer trainer = make(1e30);
  trainer.step();  // finite gradients, absurd weights
  const std::string text = stopped_step(trainer);
  expect_mentions(text, {"step 2", "NaN or infinite", "--lr"});
  EXPECT_TRUE(text.find("blocks.") != std::string::npos ||
              text.find("embedding") != std::string::npos)
      << text;
}

TEST_P(NonFinite, AnInfiniteWeightIsNamed) {
  for (const std::string name :
       {"model.layers.1.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight",
        "model.embed_tokens.weight", "lm_head.weight"}) {
    for (const float value : {kInfinity, std::nanf("")}) {
      Trainer trainer = make();
      trainer.step();
      // Some token of the batch reads this row of the embedding.
      set(trainer, name, value);
      if (name.find("embed") != std::string::npos) {
        trainer.model().llama().for_each_parameter([&](const Parameter& parameter) {
          if (parameter.name != name) return;
          for (std::int64_t r = 'a'; r <= 'z'; ++r) parameter.value.row<float>(r)[0] = value;
        });
      }
      expect_mentions(stopped_step(trainer), {"step 2", "the weight " + name});
    }
  }
}

TEST_P(NonFinite, TheLayerWhereItFirstAppearsIsNamed) {
  Trainer trainer = make();
  trainer.step();
  trainer.model().llama().for_each_parameter([&](const Parameter& parameter) {
    if (parameter.name != "model.layers.1.post_attention_layernorm.weight") return;
    for (std::int64_t i = 0; i < parameter.value.numel(); ++i) {
      parameter.value.as<float>()[i] = 3e38f;  // finite, but no product of it is
    }
  });
  const std::string text = stopped_step(trainer);
  EXPECT_NE(text.find("blocks.1.mlp"), std::string::npos) << text;
}

// Only a step's first micro-batch has the token whose normalized embedding overflows.
TEST_P(NonFinite, TheSearchBeginsAtTheMicroBatchThatBroke) {
  make();
  const BatchSource batches = [&](std::int64_t step, std::int64_t micro, Batch& batch) {
    tiny_batches(config_)(step, micro, batch);
    if (micro == 0) batch.input_tokens[0] = 'A';
  };
  Trainer trainer(*backend_, config_, batches);
  trainer.step();
  trainer.model().llama().for_each_parameter([&](const Parameter& parameter) {
    const Tensor& value = parameter.value;
    if (parameter.name == "model.layers.0.input_layernorm.weight") value.as<float>()[5] = 3e38f;
    if (parameter.name != "model.embed_tokens.weight") return;
    for (std::int64_t token = 0; token < value.rows(); ++token) value.row<float>(token)[5] = 0.0f;
    std::fill_n(value.row<float>('A'), value.cols(), 0.0f);
    value.row<float>('A')[5] = 1.0f;
  });
  expect_mentions(stopped_step(trainer), {"step 2", "the loss", "the output of blocks.0.attn.qkv"});
}

TEST_P(NonFinite, TheRunGoesOnFromTheWeightsThatWereKept) {
  Trainer trainer = make();
  Trainer calm = make();
  trainer.step();
  calm.step();
  set(trainer, "lm_head.weight", kInfinity);
  stopped_step(trainer);
  set(trainer, "lm_head.weight", 0.0f);
  set(calm, "lm_head.weight", 0.0f);
  EXPECT_EQ(trainer.step().loss, calm.step().loss);
  EXPECT_EQ(weights_of(trainer), weights_of(calm));
}

INSTANTIATE_TEST_SUITE_P(Schemes, NonFinite,
                         ::testing::Values("none", "w4a4", "w4a16", "w1a1", "w4a4_int8"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace quest
