// Tests of the command line: help, dispatch, settings flags and each usage error.
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <optional>

#include "apps/command.h"
#include "apps/options.h"
#include "apps/settings_flags.h"
#include "apps/text.h"
#include "core/error.h"

namespace quest::app {
namespace {

// Stands for a command with all settings; remembers what it resolved.
class FakeTrain : public Command {
 public:
  explicit FakeTrain(std::optional<TrainSettings>& seen) : seen_(seen) {}
  CommandText text() const override {
    return {"train", "Train a model", {"quest train --data a.txt", "quest train --help-all"}};
  }
  void declare(CLI::App& app) override { flags_.declare(app); }
  int run() override {
    seen_ = flags_.resolve([](const std::string&) { return std::vector<Assignment>{}; });
    return 7;
  }

 private:
  std::optional<TrainSettings>& seen_;
  SettingsFlags flags_;
};

class FakeSynth : public Command {
 public:
  CommandText text() const override {
    return {"data synth", "Make a corpus", {"quest data synth"}};
  }
  void declare(CLI::App& app) override {
    add_whole(app, "--tokens", tokens_, {.low = 1}, "how many", true);
    add_real(app, "-t,--temp", temperature_, {.low = 0}, "heat");
  }
  int run() override { return static_cast<int>(static_cast<double>(tokens_) * temperature_); }

 private:
  std::int64_t tokens_ = 0;
  double temperature_ = 1;
};

struct Outcome {
  int exit_code = 0;
  std::string out, error;
  std::optional<TrainSettings> settings;
};

Outcome run(std::vector<const char*> arguments) {
  Outcome outcome;
  arguments.insert(arguments.begin(), "quest");
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(std::make_unique<FakeTrain>(outcome.settings));
  commands.push_back(std::make_unique<FakeSynth>());
  testing::internal::CaptureStdout();
  try {
    outcome.exit_code =
        run_command_line(static_cast<int>(arguments.size()), arguments.data(), commands);
  } catch (const Error& error) {
    outcome.exit_code = error.exit_code();
    outcome.error = error.what();
  }
  outcome.out = testing::internal::GetCapturedStdout();
  return outcome;
}

void expect_fits_a_screen(const std::string& help) {
  const std::vector<std::string> lines = split(help, '\n');
  EXPECT_LE(lines.size() - 1, 40u) << help;
  for (const std::string& line : lines) EXPECT_LE(line.size(), 100u) << line;
}

TEST(CommandLine, HelpFitsAScreenAndEndsWithExamples) {
  for (const auto& outcome : {run({"--help"}), run({"train", "--help"}), run({"data", "--help"}),
                              run({"data", "synth", "-h"})}) {
    EXPECT_EQ(outcome.exit_code, 0);
    expect_fits_a_screen(outcome.out);
  }
  EXPECT_TRUE(
      run({"train", "--help"})
          .out.ends_with("\nExamples:\n  quest train --data a.txt\n  quest train --help-all\n"));
}

TEST(CommandLine, LessUsedOptionsAreShownByHelpAllOnly) {
  const std::string usual = run({"train", "--help"}).out;
  const std::string all = run({"train", "--help-all"}).out;
  EXPECT_EQ(usual.find("--adam-eps"), std::string::npos);
  EXPECT_NE(usual.find("--help-all"), std::string::npos);
  for (const Setting& setting : all_settings()) {
    EXPECT_NE(all.find(setting.flag + (setting.value_name.empty() ? "" : " ")), std::string::npos)
        << setting.flag;
  }
  for (const std::string& line : split(all, '\n')) EXPECT_LE(line.size(), 100u) << line;
}

TEST(CommandLine, TheExitCodeIsTheCommands) {
  EXPECT_EQ(run({"train"}).exit_code, 7);
  EXPECT_EQ(run({"data", "synth", "--tokens", "5"}).exit_code, 5);
  EXPECT_EQ(run({"data", "synth", "--tokens", "5e0", "-t", "2.5"}).exit_code, 12);
}

TEST(CommandLine, VersionIsPrinted) { EXPECT_TRUE(run({"--version"}).out.starts_with("quest ")); }

TEST(CommandLine, FlagsReachTheSettings) {
  const TrainSettings settings =
      run({"train", "--lr", "3e-4", "--resume", "--scheme-layer", "a=w8a8", "--scheme-layer",
           "b=none", "--set", "model.width=192", "--set=train.seed=4", "--sample-prompt", "[x,y]",
           "--lr=2e-4", "--warmup", "50"})
          .settings.value();
  EXPECT_EQ(settings.train.lr, 2e-4);
  EXPECT_TRUE(settings.run.resume);
  EXPECT_FALSE(settings.run.overwrite);
  EXPECT_EQ(settings.scheme.layers, (std::vector<std::string>{"a=w8a8", "b=none"}));
  EXPECT_EQ(settings.model.width, 192);
  EXPECT_EQ(settings.train.seed, 4);
  EXPECT_EQ(settings.train.sample_prompt, "[x,y]");
  EXPECT_EQ(settings.train.warmup, (FractionOrSteps{false, 0, 50}));
}

TEST(CommandLine, ASwitchCanBeTurnedOff) {
  EXPECT_FALSE(
      run({"train", "--set", "run.resume=true", "--resume=false"}).settings.value().run.resume);
}

TEST(CommandLine, UsageErrorsAreSentencesWithExitCode2) {
  const std::vector<std::pair<Outcome, std::string>> cases = {
      {run({}), "quest needs a command (see quest --help)"},
      {run({"data"}), "quest data needs a command (see quest data --help)"},
      {run({"trian"}), "quest has no command 'trian'; the nearest is 'train' (see quest --help)"},
      {run({"data", "snyth"}),
       "quest data has no command 'snyth'; the nearest is 'synth' (see quest data --help)"},
      {run({"train", "--stesp=5"}),
       "quest train has no option '--stesp'; the nearest is '--steps' (see quest train --help)"},
      {run({"data", "synth", "--tokenz", "5"}),
       "quest data synth has no option '--tokenz'; the nearest is '--tokens' (see quest data synth "
       "--help)"},
      {run({"train", "stray"}),
       "quest train cannot use the argument 'stray' (see quest train "
       "--help)"},
      {run({"data", "synth", "--tokens", "many"}), "--tokens must be a whole number, not 'many'"},
      {run({"data", "synth", "--tokens", "0"}), "--tokens must be at least 1, not 0"},
      {run({"data", "synth", "--tokens", "5", "-t", "nan"}), "--temp must be at least 0, not nan"},
      {run({"train", "--lr", "-1"}), "--lr: train.lr must be greater than 0, not -1"},
      {run({"train", "--lr", "--steps"}), "--lr: train.lr must be a number, not '--steps'"},
  };
  for (const auto& [outcome, sentence] : cases) {
    EXPECT_EQ(outcome.error, sentence);
    EXPECT_EQ(outcome.exit_code, 2) << sentence;
    EXPECT_EQ(outcome.out, "") << sentence;
  }
}

TEST(CommandLine, WhatCli11RefusesIsAUsageErrorToo) {
  for (const auto& outcome : {run({"data", "synth"}), run({"train", "--lr"})}) {
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_NE(outcome.error.find(" --help)"), std::string::npos) << outcome.error;
    EXPECT_EQ(outcome.error.find('\n'), std::string::npos) << outcome.error;
  }
}

TEST(CommandLine, AMissingConfigFileIsNamed) {
  const Outcome outcome = run({"train", "--config", "/nonexistent/run.toml"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.error.find("/nonexistent/run.toml"), std::string::npos) << outcome.error;
}

}  // namespace
}  // namespace quest::app
