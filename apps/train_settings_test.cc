// Tests of the step from settings to a run: its length, and that each value arrives.
#include "apps/train_settings.h"

#include <gtest/gtest.h>

#include "apps/model_settings.h"
#include "core/error.h"

namespace quest::app {
namespace {

TrainSettings settings_of(const std::vector<std::string>& set_arguments) {
  SettingSources sources;
  for (const std::string& argument : set_arguments) {
    sources.set_arguments.push_back(parse_set_argument(argument));
  }
  return resolve_settings(sources, model_preset);
}

// Steps of 4 x 2 windows of 32 tokens, over 100 windows.
std::int64_t steps_of(const std::string& length) {
  std::vector<std::string> arguments = {"train.batch_size=4", "train.grad_accum=2",
                                        "train.seq_len=32"};
  if (!length.empty()) arguments.push_back(length);
  return run_steps(settings_of(arguments), 100);
}

TEST(TrainSettings, TheLengthOfARunIsRoundedUpToSteps) {
  EXPECT_EQ(steps_of("train.steps=7"), 7);
  EXPECT_EQ(steps_of("train.tokens=256"), 1);
  EXPECT_EQ(steps_of("train.tokens=257"), 2);
  EXPECT_EQ(steps_of("train.epochs=0.5"), 7);
  EXPECT_EQ(steps_of("train.epochs=2"), 25);
  EXPECT_EQ(steps_of("train.epochs=1e-9"), 1);
  EXPECT_THROW(steps_of("train.epochs=1e300"), UsageError);
  EXPECT_EQ(steps_of("train.steps=2147483647"), 2147483647);
  EXPECT_THROW(steps_of("train.steps=2147483648"), UsageError);
  EXPECT_THROW(steps_of("train.tokens=1e18"), UsageError);
}

TEST(TrainSettings, TheTokensOfARunFitTheirCounter) {
  EXPECT_THROW(run_steps(settings_of({"train.steps=2147483647", "train.grad_accum=1048576",
                                      "train.batch_size=1024", "train.seq_len=1024"}),
                         100),
               UsageError);
}

TEST(TrainSettings, WithoutALengthARunIsOneEpoch) { EXPECT_EQ(steps_of(""), 13); }

TEST(TrainSettings, EachValueReachesTheTrainer) {
  const TrainerConfig config = trainer_config(
      settings_of({"train.batch_size=3", "train.grad_accum=5", "train.seq_len=64", "train.lr=0.5",
                   "train.warmup=0.25", "train.schedule=wsd", "train.final_lr_fraction=0.3",
                   "train.weight_decay=0.7", "train.beta1=0.8", "train.beta2=0.85",
                   "train.adam_eps=1e-6", "train.grad_clip=2", "train.seed=9", "run.dtype=bf16",
                   "scheme.default=w2a2"}),
      256, 40);
  EXPECT_EQ(config.batch_size, 3);
  EXPECT_EQ(config.grad_accum, 5);
  EXPECT_EQ(config.seq_len, 64);
  EXPECT_EQ(config.model.max_positions, 64);
  EXPECT_EQ(config.model.vocab, 256);
  EXPECT_EQ(config.compute, DType::kBF16);
  EXPECT_EQ(config.scheme, Scheme::parse("w2a2"));
  EXPECT_EQ(config.schedule.kind, ScheduleKind::kWsd);
  EXPECT_EQ(config.schedule.peak, 0.5);
  EXPECT_EQ(config.schedule.warmup_steps, 10);
  EXPECT_EQ(config.schedule.total_steps, 40);
  EXPECT_EQ(config.schedule.final_fraction, 0.3);
  EXPECT_EQ(config.optimizer.weight_decay, 0.7);
  EXPECT_EQ(config.optimizer.beta1, 0.8);
  EXPECT_EQ(config.optimizer.beta2, 0.85);
  EXPECT_EQ(config.optimizer.epsilon, 1e-6);
  EXPECT_EQ(config.optimizer.grad_clip, 2);
  EXPECT_EQ(config.seed, 9u);
}

TEST(TrainSettings, EachValueReachesThePlan) {
  const RunPlan plan =
      run_plan(settings_of({"train.log_every=2", "train.eval_every=3", "train.sample_every=4",
                            "train.save_every=5", "train.keep_last=6", "train.data_seed=7"}),
               8);
  EXPECT_EQ(plan.log_every, 2);
  EXPECT_EQ(plan.eval_every, 3);
  EXPECT_EQ(plan.sample_every, 4);
  EXPECT_EQ(plan.save_every, 5);
  EXPECT_EQ(plan.keep_last, 6);
  EXPECT_EQ(plan.data_seed, 7u);
  EXPECT_EQ(plan.steps, 8);
}

TEST(TrainSettings, AWarmupInStepsMustFitTheRun) {
  EXPECT_EQ(trainer_config(settings_of({"train.warmup=40"}), 256, 40).schedule.warmup_steps, 40);
  EXPECT_THROW(trainer_config(settings_of({"train.warmup=41"}), 256, 40), UsageError);
}

TEST(TrainSettings, TheDefaultsAreTheLibrarysDefaults) {
  const TrainerConfig config = trainer_config(settings_of({}), 256, 10);
  const OptimizerConfig optimizer;
  EXPECT_EQ(config.optimizer.beta1, optimizer.beta1);
  EXPECT_EQ(config.optimizer.beta2, optimizer.beta2);
  EXPECT_EQ(config.optimizer.epsilon, optimizer.epsilon);
  EXPECT_EQ(config.optimizer.weight_decay, optimizer.weight_decay);
  EXPECT_EQ(config.optimizer.grad_clip, optimizer.grad_clip);
  EXPECT_EQ(config.schedule.peak, Schedule{}.peak);
  EXPECT_EQ(config.schedule.final_fraction, Schedule{}.final_fraction);
}

}  // namespace
}  // namespace quest::app
