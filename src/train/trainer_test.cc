// Tests of the optimization step: micro-batches, fresh codes, and learning at all.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "train/tiny_run_for_test.h"

namespace quest {
namespace {

double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0;
  double size = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(a[i] - b[i], 2);
    size += std::pow(b[i], 2);
  }
  return std::sqrt(difference / size);
}

class TrainerTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Trainer> make(const TrainerConfig& config) {
    return std::make_unique<Trainer>(*backend_, config, tiny_batches(config));
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
};

TEST_P(TrainerTest, FourMicroBatchesOfEightAreOneBatchOfThirtyTwo) {
  TrainerConfig one = tiny_run_config(GetParam());
  one.batch_size = 32;
  one.grad_accum = 1;
  TrainerConfig four = one;
  four.batch_size = 8;
  four.grad_accum = 4;
  const auto whole = make(one);
  const auto parts = make(four);
  const auto start = weights_of(*whole);
  for (int step = 0; step < 3; ++step) {
    const StepReport a = whole->step();
    const StepReport b = parts->step();
    // After the first step the weights differ by rounding, and a code may flip.
    EXPECT_NEAR(a.loss, b.loss, step == 0 ? 1e-6 : 2e-3) << "step " << step;
    EXPECT_NEAR(a.grad_norm, b.grad_norm, (step == 0 ? 1e-5 : 1e-2) * a.grad_norm);
    if (step == 0) {
      EXPECT_LT(relative_distance(gradients_of(*parts), gradients_of(*whole)), 1e-5);
    }
  }
  // How far the two ended apart, in units of how far they went.
  const auto end = weights_of(*whole);
  const auto other_end = weights_of(*parts);
  double apart = 0.0;
  double moved = 0.0;
  for (std::size_t i = 0; i < end.size(); ++i) {
    apart += std::pow(end[i] - other_end[i], 2);
    moved += std::pow(end[i] - start[i], 2);
  }
  EXPECT_LT(std::sqrt(apart / moved), 0.05);
}

TEST_P(TrainerTest, EveryStepQuantizesTheWeightsOfItsOwnStep) {
  const TrainerConfig config = tiny_run_config(GetParam());
  const auto trainer = make(config);
  for (int step = 0; step < 2; ++step) trainer->step();
  // A trainer that starts with these weights and has seen no others.
  const auto fresh = make(config);
  std::vector<Tensor> values;
  trainer->model().llama().for_each_parameter(
      [&](const Parameter& parameter) { values.push_back(parameter.value); });
  std::size_t index = 0;
  fresh->model().llama().for_each_parameter(
      [&](const Parameter& parameter) { backend_->copy(parameter.value, values[index++]); });
  fresh->resume_at(2);
  EXPECT_EQ(trainer->step().loss, fresh->step().loss);
  EXPECT_EQ(gradients_of(*trainer), gradients_of(*fresh));
}

TEST_P(TrainerTest, EvaluationQuantizesTheWeightsOfTheLastStep) {
  const TrainerConfig config = tiny_run_config(GetParam());
  const auto trainer = make(config);
  const auto tokenizer = load_tokenizer("bytes");
  const BatchSource batches = tiny_batches(config);
  trainer->step();
  const EvalSource next{2, [&](std::int64_t index, Batch& batch) { batches(1, index, batch); }};
  const double evaluated = trainer->evaluate(next, *tokenizer).loss();
  EXPECT_NEAR(trainer->step().loss, evaluated, 1e-14);
}

TEST_P(TrainerTest, GradientsOfAStepDoNotReachTheNext) {
  TrainerConfig config = tiny_run_config(GetParam());
  config.schedule = {ScheduleKind::kConstant, 0.0, 1.0, 0.0, 10};  // the weights stay
  const auto same = [&](std::int64_t, std::int64_t micro, Batch& batch) {
    tiny_batches(config)(0, micro, batch);
  };
  Trainer trainer(*backend_, config, same);
  const StepReport first = trainer.step();
  const auto gradients = gradients_of(trainer);
  const StepReport second = trainer.step();
  EXPECT_EQ(first.loss, second.loss);
  EXPECT_EQ(first.grad_norm, second.grad_norm);
  EXPECT_EQ(gradients, gradients_of(trainer));
}

TEST_P(TrainerTest, MeasuringErrorsChangesNothingAndNamesEveryLayer) {
  const TrainerConfig config = tiny_run_config(GetParam());
  const auto measured = make(config);
  const auto plain = make(config);
  const StepReport report = measured->step(Measure::kTimesAndErrors);
  EXPECT_EQ(report.loss, plain->step().loss);
  EXPECT_EQ(weights_of(*measured), weights_of(*plain));
  EXPECT_EQ(report.errors.size(), 8u);
}

TEST_P(TrainerTest, LossFallsOnTextThatCanBeLearned) {
  TrainerConfig config = tiny_run_config(GetParam());
  config.schedule = {ScheduleKind::kCosine, 1e-2, 0.1, 4.0, 40};
  config.batch_size = 8;
  const auto trainer = make(config);
  const double first = trainer->step().loss;
  double last = 0.0;
  for (int step = 1; step < 40; ++step) last = trainer->step().loss;
  EXPECT_NEAR(first, std::log(256.0), 0.1);
  EXPECT_LT(last, 3.0);
}

TEST_P(TrainerTest, MeasuredBytesAreThoseThatAreTaken) {
  const TrainerConfig config = tiny_run_config(GetParam());
  const auto trainer = make(config);
  const Trainer::Bytes bytes = Trainer::measure(config);
  EXPECT_EQ(bytes.model.parameters, trainer->model().arenas().parameters.used_bytes());
  EXPECT_EQ(bytes.model.gradients, trainer->model().arenas().gradients.used_bytes());
  EXPECT_EQ(bytes.model.prepared, trainer->model().arenas().prepared.used_bytes());
}

TrainerConfig int8_config(const char* scheme, DType compute) {
  TrainerConfig config = tiny_run_config(scheme, compute);
  config.backward = GradientProducts::kInt8;
  return config;
}

TEST(Int8Backward, TheSameSeedGivesTheSameBitsAndAnotherOneDoesNot) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const std::unique_ptr<Backend> backend = make_cpu_backend(2);
    const auto run = [&](std::uint64_t seed) {
      TrainerConfig config = int8_config("w4a4", compute);
      Trainer trainer(*backend, config, tiny_batches(config));
      config.seed = seed;
      Trainer rounded(*backend, config, tiny_batches(config));
      std::vector<Tensor> weights;
      trainer.model().llama().for_each_parameter(
          [&](const Parameter& parameter) { weights.push_back(parameter.value); });
      std::size_t index = 0;
      rounded.model().llama().for_each_parameter(
          [&](const Parameter& parameter) { backend->copy(parameter.value, weights[index++]); });
      for (int step = 0; step < 2; ++step) rounded.step();
      return gradients_of(rounded);
    };
    const auto gradients = run(3);
    EXPECT_EQ(gradients, run(3));
    EXPECT_NE(gradients, run(4));
  }
}

TEST(Int8Backward, TheMeanGradientOverSeedsIsTheFloatOne) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  TrainerConfig config = tiny_run_config("w4a4");
  const auto gradients = [&] {
    Trainer trainer(*backend, config, tiny_batches(config));
    Rng rng(5, RngPurpose::kTest);
    trainer.model().llama().for_each_parameter([&](const Parameter& parameter) {
      for (std::int64_t i = 0; i < parameter.value.numel(); ++i) {
        parameter.value.as<float>()[i] = static_cast<float>(0.1 * rng.normal());
      }
    });
    trainer.step();
    return gradients_of(trainer);
  };
  const std::vector<float> exact = gradients();
  config.backward = GradientProducts::kInt8;
  constexpr int kSeeds = 400;
  std::vector<float> mean(exact.size());
  double single = 0.0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    config.seed = static_cast<std::uint64_t>(seed);
    const std::vector<float> rounded = gradients();
    single += std::pow(relative_distance(rounded, exact), 2) / kSeeds;
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += rounded[i] / kSeeds;
  }
  // Independent errors of mean 0 shrink by the root of their number; ones that add up do not.
  EXPECT_GT(std::sqrt(single), 1e-3);
  EXPECT_NEAR(relative_distance(mean, exact) / std::sqrt(single / kSeeds), 1.0, 0.25);
}

TEST(Int8Backward, KeysAreCountedAsTheyAreTaken) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  const TrainerConfig config = int8_config("w4a4", DType::kF32);
  for (const std::vector<std::string>& overrides :
       {std::vector<std::string>{}, {"head=w4a4"}, {"blocks.0.attn.k=w8a4", "blocks.1.*=w4a16"}}) {
    const Scheme scheme = Scheme::parse("w4a4", overrides);
    Model model(*backend, config.model, scheme, config.compute, true);
    model.initialize(1);
    model.prepare();
    Arena measuring;
    const PassShape shape{5, config.seq_len, true};
    model.make_activations(measuring, shape);
    Arena arena(*backend, measuring.used_bytes());
    Activations activations = model.make_activations(arena, shape);
    activations.head.rows = 16;  // three chunks
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(shape.rows()), 1);
    const Tensor view = view_of(tokens.data(), {shape.rows()});
    RoundingKeys keys(1, 2, 3);
    forward_backward(*backend, model.llama(), activations, view, view, 1.0f, {&keys, Write::kSet});
    EXPECT_EQ(count_rounding_keys(model.llama(), activations), keys.taken());
    EXPECT_GT(keys.taken(), 0u);
  }
}

TEST(Int8Backward, EveryMicroBatchIsRoundedByItsOwnBits) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  TrainerConfig config = int8_config("w4a4", DType::kF32);
  const auto same = [&](std::int64_t, std::int64_t, Batch& batch) {
    tiny_batches(config)(0, 0, batch);
  };
  const auto gradients = [&](std::int64_t accum) {
    config.grad_accum = accum;
    Trainer trainer(*backend, config, same);
    trainer.step();
    return gradients_of(trainer);
  };
  // Were both micro-batches rounded alike, two of them would give the gradient of one.
  EXPECT_GT(relative_distance(gradients(2), gradients(1)), 1e-3);
}

TEST(Int8Backward, LossFallsOnTextThatCanBeLearned) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  for (const char* scheme : {"w4a4", "w1a1", "w8a8"}) {
    TrainerConfig config = int8_config(scheme, DType::kF32);
    config.schedule = {ScheduleKind::kCosine, 1e-2, 0.1, 4.0, 40};
    config.batch_size = 8;
    Trainer trainer(*backend, config, tiny_batches(config));
    double last = 0.0;
    for (int step = 0; step < 40; ++step) last = trainer.step().loss;
    EXPECT_LT(last, 3.0) << scheme;
  }
}

TEST(Int8Backward, ALayerWithMoreOutputsThanItsIntegersAllowIsRefused) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  TrainerConfig config = int8_config("w4a4", DType::kF32);
  config.model.hidden = 16400;
  try {
    Trainer trainer(*backend, config, tiny_batches(config));
    FAIL() << "was not refused";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              "--backward int8 supports layers of at most 32768 outputs; blocks.0.mlp.gate has "
              "32800");
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, TrainerTest,
                         ::testing::Values("none", "w4a4", "w4a16", "w16a4", "w1a1"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Trainer, RecomputingGivesTheSameBitsInLessMemory) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(2);
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    for (const char* scheme : {"none", "w4a4", "w4a16", "w1a1 none"}) {
      TrainerConfig config = tiny_run_config(scheme, compute);
      const auto weights_after = [&](Recompute recompute) {
        config.recompute = recompute;
        Trainer trainer(*backend, config, tiny_batches(config));
        for (int step = 0; step < 2; ++step) trainer.step();
        return weights_of(trainer);
      };
      const auto expected = weights_after(Recompute::kNone);
      std::size_t bytes = Trainer::measure(config).activations;
      for (const Recompute recompute : {Recompute::kNorm, Recompute::kBlock}) {
        EXPECT_EQ(weights_after(recompute), expected) << scheme << ' ' << recompute_name(recompute);
        EXPECT_LT(Trainer::measure(config).activations, bytes)
            << scheme << ' ' << recompute_name(recompute);
        bytes = Trainer::measure(config).activations;
      }
    }
  }
}

}  // namespace
}  // namespace quest
