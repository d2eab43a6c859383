// Tests of the run folder: one owner, nothing foreign removed, and a log that can go back.
#include "train/run_folder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "data/test_folder.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

class RunFolderTest : public ::testing::Test {
 protected:
  // A folder that a run left behind.
  fs::path finished_run(const std::string& name = "run") {
    const fs::path path = temporary_.path(name);
    {
      RunFolder folder(path, FolderMode::kNew);
      write_file(folder.settings_path(), "steps = 1\n");
      folder.log("{\"step\": 1}");
    }
    fs::create_directories(path / "checkpoints" / "step-00000001");
    return path;
  }

  TestFolder temporary_;
};

TEST_F(RunFolderTest, ANewRunTakesAnAbsentOrAnEmptyFolderOnly) {
  const fs::path path = temporary_.path("deep/er/run");
  { RunFolder folder(path, FolderMode::kNew); }
  EXPECT_TRUE(fs::exists(path / "log.jsonl"));
  const fs::path empty = temporary_.path("empty");
  fs::create_directories(empty);
  { RunFolder folder(empty, FolderMode::kNew); }
  const std::string text = error_of([&] { RunFolder folder(finished_run(), FolderMode::kNew); });
  expect_mentions(text, {"not empty", "--resume", "--overwrite"});
  const std::string file = temporary_.write("file", "content");
  expect_mentions(error_of([&] { RunFolder folder(file, FolderMode::kNew); }),
                  {file, "not a folder"});
}

TEST_F(RunFolderTest, WhatIsUsableIsToldBeforeTheFolderIsTouched) {
  const fs::path run = finished_run(), absent = temporary_.path("deep/er/run");
  const fs::path below = fs::path(temporary_.write("file", "content")) / "run";
  const fs::path photos = temporary_.path("photos");
  fs::create_directories(photos / "2024");
  const auto refusal = [](const fs::path& path, FolderMode mode) {
    return error_of([&] { RunFolder::require_usable(path, mode); });
  };
  EXPECT_NO_THROW(RunFolder::require_usable(absent, FolderMode::kNew));
  EXPECT_NO_THROW(RunFolder::require_usable(run, FolderMode::kOverwrite));
  EXPECT_NO_THROW(RunFolder::require_usable(run, FolderMode::kResume));
  expect_mentions(refusal(run, FolderMode::kNew), {"not empty", "--overwrite"});
  expect_mentions(refusal(photos, FolderMode::kNew), {"no run; choose another --out"});
  expect_mentions(refusal(photos, FolderMode::kOverwrite), {"does not hold a run"});
  expect_mentions(refusal(below, FolderMode::kNew), {"file is not a folder"});
  expect_mentions(refusal(absent, FolderMode::kResume), {"no run to resume"});
  EXPECT_FALSE(fs::exists(absent.parent_path()));
  EXPECT_EQ(read_file(run / "train.toml"), "steps = 1\n");
}

TEST_F(RunFolderTest, TwoRunsNeverShareAFolder) {
  const fs::path path = finished_run();
  {
    RunFolder first(path, FolderMode::kResume);
    for (const FolderMode mode : {FolderMode::kResume, FolderMode::kOverwrite}) {
      expect_mentions(error_of([&] { RunFolder second(path, mode); }),
                      {"another run", path.string()});
    }
    EXPECT_TRUE(fs::exists(path / "train.toml")) << "the refused run removed the first one's file";
    EXPECT_EQ(read_file(first.log_path()), "{\"step\": 1}\n");
  }
  EXPECT_NO_THROW(RunFolder(path, FolderMode::kResume)) << "the lock outlived its owner";
}

TEST_F(RunFolderTest, ResumingNeedsARun) {
  const std::string absent = temporary_.path("absent");
  expect_mentions(error_of([&] { RunFolder folder(absent, FolderMode::kResume); }),
                  {"no run to resume", absent});
  EXPECT_FALSE(fs::exists(absent)) << "a refused resume left a folder";
}

TEST_F(RunFolderTest, OverwritingRemovesTheRunAndNothingElse) {
  const fs::path path = finished_run();
  write_file(path / "notes.txt", "mine");
  { RunFolder folder(path, FolderMode::kOverwrite); }
  EXPECT_FALSE(fs::exists(path / "train.toml"));
  EXPECT_FALSE(fs::exists(path / "checkpoints"));
  EXPECT_EQ(read_file(path / "log.jsonl"), "");
  EXPECT_EQ(read_file(path / "notes.txt"), "mine");
}

TEST_F(RunFolderTest, OverwritingRefusesFoldersThatHoldNoRun) {
  const fs::path path = temporary_.path("photos");
  fs::create_directories(path / "checkpoints");
  write_file(path / "config.json", "theirs");
  const std::string text = error_of([&] { RunFolder folder(path, FolderMode::kOverwrite); });
  expect_mentions(text, {"does not hold a run", "--overwrite"});
  EXPECT_EQ(read_file(path / "config.json"), "theirs");
  EXPECT_TRUE(fs::exists(path / "checkpoints"));
}

TEST_F(RunFolderTest, RewindingDropsLaterEventsAndAnUnfinishedLine) {
  const std::string kept =
      "{\"event\":\"start\"}\n{\"event\":\"step\",\"step\":10}\n"
      "{\"event\":\"evaluation\",\"step\":10}\n";
  RunFolder folder(temporary_.path("run"), FolderMode::kNew);
  folder.log("{\"event\":\"start\"}");
  folder.log("{\"event\":\"step\",\"step\":10}");
  folder.log("{\"event\":\"evaluation\",\"step\":10}");
  folder.log("{\"event\":\"step\",\"step\":11}");
  const std::string text = read_file(folder.log_path());
  write_file(folder.log_path(), text + "{\"event\":\"step\",\"st");
  folder.rewind_log(10);
  EXPECT_EQ(read_file(folder.log_path()), kept);
  folder.log("{\"event\":\"step\",\"step\":11}");
  EXPECT_EQ(read_file(folder.log_path()), kept + "{\"event\":\"step\",\"step\":11}\n");
}

TEST_F(RunFolderTest, RewindingSurvivesLinesOfGarbage) {
  RunFolder folder(temporary_.path("run"), FolderMode::kNew);
  write_file(folder.log_path(),
             std::string(1, '\0') + "\xff not json\n[1, 2]\n{\"step\":\"x\"}\n{\"step\":3}\n");
  EXPECT_NO_THROW(folder.rewind_log(2));
  EXPECT_EQ(read_file(folder.log_path()), "{\"step\":\"x\"}\n");
  EXPECT_NO_THROW(folder.rewind_log(0));
}

}  // namespace
}  // namespace quest
