// Tests of whole runs: stopping and resuming, what is logged, and when things happen.
#include "train/run.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/file.h"
#include "data/test_folder.h"
#include "train/tiny_run_for_test.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

class RunTest : public ::testing::Test {
 protected:
  // Runs (or resumes) the tiny run in `name`, up to `stop_after` if that is not 0.
  RunResult run(const std::string& name, FolderMode mode, RunPlan plan, RecordingObserver& observer,
                DType compute = DType::kF32) {
    const TrainerConfig config = tiny_run_config("w4a4", compute);
    Trainer trainer(*backend_, config, tiny_batches(config));
    RunFolder folder(temporary_.path(name), mode);
    write_file(folder.settings_path(), "a run\n");
    if (mode == FolderMode::kResume) {
      const auto newest = find_newest_checkpoint(folder.path(), [](const std::string&) {});
      folder.rewind_log(newest ? load_checkpoint(trainer, *newest).step : 0);
    }
    plan.steps = 6;
    const EvalSource validation{
        2, [&](std::int64_t index, Batch& batch) { tiny_batches(config)(100, index, batch); }};
    return run_training(trainer, plan, folder, *tokenizer_, &validation, observer);
  }
  std::string file(const std::string& path) { return read_file(temporary_.path(path)); }
  std::vector<nlohmann::json> log_of(const std::string& name) {
    std::vector<nlohmann::json> events;
    std::istringstream lines(file(name + "/log.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      events.push_back(nlohmann::json::parse(line));
    }
    return events;
  }

  TestFolder temporary_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend(2);
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer("bytes");
};

TEST_F(RunTest, AStoppedAndResumedRunLeavesTheBytesOfAnUninterruptedOne) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const std::string type(name(compute));
    RunPlan plan;
    plan.log_every = 1;
    RecordingObserver whole_observer;
    RecordingObserver first(4);
    RecordingObserver second;
    const RunResult whole = run("whole" + type, FolderMode::kNew, plan, whole_observer, compute);
    EXPECT_FALSE(whole.stopped);
    EXPECT_EQ(whole.steps, 6);
    const RunResult stopped = run("cut" + type, FolderMode::kNew, plan, first, compute);
    EXPECT_TRUE(stopped.stopped);
    EXPECT_EQ(stopped.steps, 4);
    EXPECT_FALSE(stopped.has_validation);
    EXPECT_EQ(first.checkpoints, std::vector<std::int64_t>{4});
    EXPECT_FALSE(fs::exists(temporary_.path("cut" + type + "/model.safetensors")))
        << "a stopped run has no finished model";
    const RunResult resumed = run("cut" + type, FolderMode::kResume, plan, second, compute);
    EXPECT_FALSE(resumed.stopped);
    EXPECT_EQ(resumed.steps, 6);
    EXPECT_EQ(second.losses.size(), 2u);

    for (const std::string path :
         {"/model.safetensors", "/config.json", "/checkpoints/step-00000006/model.safetensors",
          "/checkpoints/step-00000006/optimizer.safetensors",
          "/checkpoints/step-00000006/trainer_state.json"}) {
      EXPECT_TRUE(file("whole" + type + path) == file("cut" + type + path)) << path;
    }
    EXPECT_EQ(whole.validation.loss_sum, resumed.validation.loss_sum);
    std::vector<double> losses = first.losses;
    losses.insert(losses.end(), second.losses.begin(), second.losses.end());
    EXPECT_EQ(losses, whole_observer.losses);
  }
}

TEST_F(RunTest, TheLogTellsEachStepOnceAlsoAfterAResume) {
  RunPlan plan;
  plan.log_every = 1;
  plan.save_every = 2;
  RecordingObserver first(5);
  RecordingObserver second;
  run("run", FolderMode::kNew, plan, first);
  // As after a kill at step 5: its checkpoint is lost, the log goes further.
  fs::remove_all(temporary_.path("run/checkpoints/step-00000005"));
  run("run", FolderMode::kResume, plan, second);
  std::vector<std::int64_t> steps;
  for (const auto& event : log_of("run")) {
    if (event["event"] == "step") steps.push_back(event["step"]);
  }
  EXPECT_EQ(steps, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6}));
}

TEST_F(RunTest, ThingsHappenAtTheirStepsAndEachOnce) {
  RunPlan plan;
  plan.eval_every = 2;
  plan.save_every = 3;
  plan.sample_every = 4;
  plan.keep_last = 1;
  RecordingObserver observer;
  observer.sample_text = "once \xff upon";
  const RunResult result = run("run", FolderMode::kNew, plan, observer);
  EXPECT_EQ(observer.evaluations, (std::vector<std::int64_t>{2, 4, 6}));
  EXPECT_EQ(observer.checkpoints, (std::vector<std::int64_t>{3, 6}));
  EXPECT_EQ(observer.samples, (std::vector<std::int64_t>{4, 6}));
  EXPECT_EQ(list_checkpoints(temporary_.path("run")),
            std::vector<fs::path>{checkpoint_path(temporary_.path("run"), 6)});
  EXPECT_TRUE(result.has_validation);
  EXPECT_EQ(result.validation.tokens, 32);
  EXPECT_EQ(result.train_loss, observer.losses.back());
  EXPECT_GT(result.tokens_per_second, 0.0);
  for (const auto& event : log_of("run")) {
    if (event["event"] != "step") continue;
    EXPECT_TRUE(event["layers"].contains("blocks.1.mlp.down"));
    EXPECT_EQ(event["tokens"], event["step"].get<std::int64_t>() * 32);
  }
}

TEST_F(RunTest, LearningRatesOfARunAreThePublishedSchedule) {
  RunPlan plan;
  plan.log_every = 1;
  RecordingObserver observer;
  run("run", FolderMode::kNew, plan, observer);
  // Warm-up of 2 steps from lr / 100, then half a cosine to lr / 10 at the last of 6 steps.
  const double wanted[] = {1e-4, 1e-2, 8.6819805e-3, 5.5e-3, 2.3180195e-3, 1e-3};
  std::size_t step = 0;
  for (const auto& event : log_of("run")) {
    if (event["event"] != "step") continue;
    EXPECT_NEAR(event["lr"], wanted[step], 1e-9) << "step " << step;
    ++step;
  }
  EXPECT_EQ(step, 6u);
}

TEST_F(RunTest, ADivergingRunKeepsItsLastCheckpoint) {
  TrainerConfig config = tiny_run_config();
  config.schedule = {ScheduleKind::kConstant, 1e30, 1.0, 0.0, 6};
  Trainer trainer(*backend_, config, tiny_batches(config));
  RunFolder folder(temporary_.path("run"), FolderMode::kNew);
  RunPlan plan;
  plan.steps = 6;
  plan.save_every = 1;
  RecordingObserver observer;
  EXPECT_THROW(run_training(trainer, plan, folder, *tokenizer_, nullptr, observer), NonFiniteError);
  EXPECT_EQ(observer.checkpoints, std::vector<std::int64_t>{1});
  EXPECT_NO_THROW(verify_checkpoint(checkpoint_path(folder.path(), 1)));
  EXPECT_FALSE(fs::exists(folder.path() / "model.safetensors"));
}

}  // namespace
}  // namespace quest
