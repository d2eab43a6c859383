// Tests of the command line: help, dispatch, settings flags and each usage error.
#include <gtest/gtest.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <optional>

#include "apps/command.h"
#include "apps/options.h"
#include "apps/output.h"
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

// Stands for a command with options of its own; its exit code tells two of them.
class FakeSynth : public Command {
 public:
  CommandText text() const override {
    return {"data synth", "Make a corpus", {"quest data synth"}};
  }
  void declare(CLI::App& app) override {
    add_whole(app, "--tokens", tokens_, {.low = 1}, "how many", true);
    add_real(app, "-t,--temp", temperature_, {.low = 0}, "heat");
    auto* prompt = app.add_option("--prompt", prompt_, "start")->type_name("TEXT");
    app.add_option("--prompt-file", prompt_file_, "start")->type_name("FILE")->excludes(prompt);
    app.add_option("--in", inputs_, "files")->type_name("GLOB...");
    app.add_option("--at", places_, "where")
        ->type_name("N")
        ->delimiter(',')
        ->check(whole_from_to("--at", 1, 9));
    auto* base = add_whole(app, "--base", base_, {.low = 0}, "with --by: what it counts from");
    add_whole(app, "--by", by_, {.low = 0}, "with --base: its steps")->needs(base);
    app.add_flag("--json", json_, "print JSON");
  }
  int run() override {
    if (json_) print_out(fmt::format("{}|{}|{}", prompt_, prompt_file_, fmt::join(inputs_, "+")));
    if (!places_.empty()) return std::accumulate(places_.begin(), places_.end(), 0);
    return static_cast<int>(static_cast<double>(tokens_) * temperature_);
  }

 private:
  std::int64_t tokens_ = 0;
  double temperature_ = 1;
  std::string prompt_, prompt_file_;
  std::vector<std::string> inputs_;
  std::vector<int> places_;
  std::int64_t base_ = 0, by_ = 0;
  bool json_ = false;
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
      {run({"train", "--learning-rate", "1"}),
       "quest train has no option '--learning-rate' (see quest train --help)"},
      {run({"data", "frobnicate"}),
       "quest data has no command 'frobnicate' (see quest data --help)"},
      {run({"data", "synth", "--set", "loops=5"}),
       "--set: there is no option 'loops'; --print-config prints them all"},
      {run({"data", "synth", "--tokenz", "5"}),
       "quest data synth has no option '--tokenz'; the nearest is '--tokens' (see quest data synth "
       "--help)"},
      {run({"train", "stray"}),
       "quest train cannot use the argument 'stray' (see quest train "
       "--help)"},
      {run({"data", "synth", "--tokens", "many"}), "--tokens must be a whole number, not 'many'"},
      {run({"data", "synth", "--tokens", "99999999999999999999"}),
       "--tokens must be at least 1 and less than 9.223372036854776e+18, not "
       "'99999999999999999999'"},
      {run({"data", "synth", "--tokens", "1e17"}), "--tokens must be a whole number, not '1e17'"},
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

// A config file for one test.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& toml)
      : path_(testing::TempDir() + "option_config_" + std::to_string(::getpid()) + ".toml") {
    std::ofstream(path_) << toml;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  const char* path() const { return path_.c_str(); }

 private:
  std::string path_;
};

TEST(CommandLine, ArgumentsBehindTwoDashesAreRefused) {
  for (const char* word : {"foo", "train", "synth"}) {
    EXPECT_EQ(run({"data", "synth", "--tokens", "3", "--", word}).error,
              fmt::format("quest data synth cannot use the argument '{}' (see quest data synth "
                          "--help)",
                          word));
  }
  EXPECT_EQ(run({"data", "synth", "--tokens", "3", "--", "--json"}).error,
            "quest data synth cannot use the argument '--json' (see quest data synth --help)");
  EXPECT_EQ(run({"data", "synth", "train", "--tokens", "3"}).exit_code, 2);
  EXPECT_EQ(run({"--frob", "data", "synth", "--tokens", "3"}).exit_code, 2);
  EXPECT_EQ(run({"data", "synth", "--tokens", "3", "--"}).exit_code, 3);
}

TEST(CommandLine, AnEmptyNameOfAFileIsRefused) {
  EXPECT_EQ(run({"data", "synth", "--tokens", "3", "--prompt-file", ""}).error,
            "--prompt-file names no file (see quest data synth --help)");
  EXPECT_EQ(run({"data", "synth", "--tokens", "3", "--set", "prompt-file="}).exit_code, 2);
}

TEST(OptionConfig, AFileYieldsToSetAndSetToFlags) {
  const ConfigFile file("tokens = 1e2\ntemp = 0.5\n");
  EXPECT_EQ(run({"data", "synth", "--config", file.path()}).exit_code, 50);
  EXPECT_EQ(run({"data", "synth", "--config", file.path(), "--set", "temp=0.25"}).exit_code, 25);
  EXPECT_EQ(
      run({"data", "synth", "--config", file.path(), "--set", "temp=0.25", "-t", "2"}).exit_code,
      200);
  EXPECT_EQ(run({"data", "synth", "--set", "tokens=5", "--set=tokens=6"}).exit_code, 6);
}

TEST(OptionConfig, TextsListsAndSwitchesComeFromAFile) {
  const ConfigFile file("tokens = 3\njson = true\nprompt = \"a = [b]\"\nin = [\"x,y\", \"z\"]\n");
  EXPECT_EQ(run({"data", "synth", "--config", file.path()}).out, "a = [b]||x,y+z");
  EXPECT_EQ(run({"data", "synth", "--config", file.path(), "--set", "in=p,q"}).out, "a = [b]||p+q");
  EXPECT_EQ(run({"data", "synth", "--config", file.path(), "--json=false"}).out, "");
}

TEST(OptionConfig, ListsOfNumbersComeFromAFileAsFromTheCommandLine) {
  EXPECT_EQ(run({"data", "synth", "--tokens", "3", "--at", "1,2", "--at", "4"}).exit_code, 7);
  for (const char* places : {"[1, 2, 4]", "[\"1\", \"2,4\"]", "\"1,2,4\"", "7"}) {
    const ConfigFile file(fmt::format("tokens = 3\nat = {}\n", places));
    EXPECT_EQ(run({"data", "synth", "--config", file.path()}).exit_code, 7) << places;
  }
  const auto printed = [](const char* place) {
    return run({"data", "synth", "--at", place, "--print-config"}).out;
  };
  EXPECT_NE(printed("1,4").find("\nat = [1, 4] "), std::string::npos) << printed("1,4");
}

TEST(OptionConfig, AListOfNumbersThatAreNotWantedIsRefused) {
  for (const char* places : {"[1, 10]", "[1, 2.5]", "[true]", "[[1]]", "[1979-05-27]"}) {
    const ConfigFile file(fmt::format("tokens = 3\nat = {}\n", places));
    EXPECT_EQ(run({"data", "synth", "--config", file.path()}).exit_code, 2) << places;
  }
}

TEST(OptionConfig, AnOptionThatNeedsAnotherMayHaveItFromAFileAndSaysSoFromAFile) {
  const std::string refusal = "--by requires --base (see quest data synth --help)";
  {
    const ConfigFile file("tokens = 3\nbase = 1\n");
    EXPECT_EQ(run({"data", "synth", "--config", file.path(), "--by", "2"}).exit_code, 3);
    EXPECT_EQ(run({"data", "synth", "--config", file.path(), "--set", "by=2"}).exit_code, 3);
  }
  EXPECT_EQ(run({"data", "synth", "--tokens", "3", "--by", "2"}).error, refusal);
  EXPECT_EQ(run({"data", "synth", "--tokens", "3", "--set", "by=2"}).error, refusal);
  const ConfigFile lacking("tokens = 3\nby = 1\n");
  EXPECT_EQ(run({"data", "synth", "--config", lacking.path()}).error, refusal);
}

TEST(OptionConfig, AStrongerSourceReplacesAnOptionThatExcludesIt) {
  const ConfigFile file("tokens = 3\njson = true\nprompt = \"a\"\n");
  EXPECT_EQ(run({"data", "synth", "--config", file.path(), "--prompt-file", "f"}).out, "|f|");
  const Outcome both = run(
      {"data", "synth", "--config", file.path(), "--set", "prompt=a", "--set", "prompt-file=f"});
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_NE(both.error.find("excludes"), std::string::npos) << both.error;
}

TEST(OptionConfig, WhatIsPrintedReadsBack) {
  const std::vector<const char*> given = {"data", "synth",    "--tokens",      "3e9",    "-t",
                                          "0.1",  "--prompt", "\"x\"\n",       "--json", "--in",
                                          "a b",  "c,d",      "--print-config"};
  const Outcome first = run(given);
  EXPECT_EQ(first.exit_code, 0) << first.error;
  for (const char* line : {"tokens = 3000000000 ", "temp = 0.1 ", "prompt = \"\\\"x\\\"\\n\" ",
                           "json = true ", "in = [\"a b\", \"c,d\"] ", "# prompt-file = "}) {
    EXPECT_NE(("\n" + first.out).find(std::string("\n") + line), std::string::npos) << first.out;
  }
  const ConfigFile file(first.out);
  EXPECT_EQ(run({"data", "synth", "--config", file.path(), "--print-config"}).out, first.out);
}

TEST(OptionConfig, RequiredOptionsMayBeMissingOnlyToPrint) {
  EXPECT_EQ(run({"data", "synth", "--print-config"}).exit_code, 0);
  EXPECT_EQ(run({"data", "synth"}).error, "--tokens is required (see quest data synth --help)");
  EXPECT_NE(run({"data", "synth", "--help"}).out.find("how many (required)"), std::string::npos);
}

TEST(OptionConfig, ErrorsNameTheirSourceAndTheNearestKey) {
  const auto error_of = [](const std::string& toml) {
    const ConfigFile file(toml);
    const Outcome outcome = run({"data", "synth", "--config", file.path()});
    EXPECT_EQ(outcome.exit_code, 2) << toml;
    EXPECT_EQ(outcome.out, "") << toml;
    EXPECT_EQ(outcome.error.find(std::string("config file ") + file.path()), 0u) << outcome.error;
    return outcome.error.substr(outcome.error.find(".toml") + 5);
  };
  EXPECT_EQ(error_of("tokenz = 3\n"), ": there is no option 'tokenz'; the nearest is 'tokens'");
  EXPECT_EQ(error_of("[model]\nwidth = 3\n"),
            ": there is no table [model]; the options stand without one");
  EXPECT_EQ(error_of("tokens = 3\ntemp = \"hot\"\n"), ": --temp must be a number, not 'hot'");
  EXPECT_EQ(error_of("tokens = 0\n"), ": --tokens must be at least 1, not 0");
  EXPECT_EQ(error_of("tokens = [\"1\"]\n"), ": tokens must be one value, not a list");
  EXPECT_EQ(error_of("json = 1\n"), ": json must be true or false, not '1'");
  EXPECT_EQ(run({"data", "synth", "--set", "tokenz=3"}).error,
            "--set: there is no option 'tokenz'; the nearest is 'tokens'");
  EXPECT_EQ(run({"data", "synth", "--set", "tokens"}).error,
            "--set: 'tokens' is not of the form key=value");
}

TEST(CommandLine, AMissingConfigFileIsNamed) {
  const Outcome outcome = run({"train", "--config", "/nonexistent/run.toml"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.error.find("/nonexistent/run.toml"), std::string::npos) << outcome.error;
}

}  // namespace
}  // namespace quest::app
