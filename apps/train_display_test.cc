// Tests of the block before the first step: what it says of time, memory and gradients.
#include "apps/train_display.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "apps/model_settings.h"
#include "apps/train_settings.h"

namespace quest::app {
namespace {

class OpeningText : public testing::Test {
 protected:
  OpeningText() : text_(testing::TempDir() + "quest_opening_" + std::to_string(getpid()) + ".txt") {
    std::ofstream(text_) << std::string(1000, 'a');
  }
  ~OpeningText() override { std::filesystem::remove(text_); }

  std::string of(const std::vector<std::string>& set_arguments, const Pace& pace = {}) const {
    SettingSources sources;
    for (const std::string& argument : set_arguments) {
      sources.set_arguments.push_back(parse_set_argument(argument));
    }
    sources.set_arguments.push_back(parse_set_argument("data.train=" + text_));
    sources.set_arguments.push_back(parse_set_argument("train.seq_len=10"));
    const TrainSettings settings = resolve_settings(sources, model_preset);
    const RunData data(settings);
    const TrainerConfig config = trainer_config(settings, 256, 1000);
    return opening_text(settings, config, data, run_plan(settings, 1000), "cpu", pace);
  }

  // The line that begins with `label`, and those that go on with it.
  static std::string line(const std::string& opening, const std::string& label) {
    const std::size_t start = opening.find(label + " ");
    if (start == std::string::npos) return "";
    std::size_t end = opening.find('\n', start);
    while (opening.compare(end + 1, 1, " ") == 0) end = opening.find('\n', end + 1);
    return opening.substr(start, end - start);
  }

 private:
  std::string text_;
};

TEST_F(OpeningText, TheTimeIsThatOfTheStepsThatAreLeft) {
  // Steps of 16 x 10 tokens.
  EXPECT_EQ(line(of({}, {2.0, 1000}), "time"), "time       about 33 min 20 s at 80 tokens/s");
  EXPECT_EQ(line(of({}, {2.0, 30}), "time"),
            "time       about 1 min 00 s at 80 tokens/s for the 30 steps that are left");
  EXPECT_EQ(line(of({}), "time"), "");
}

TEST_F(OpeningText, OfADeviceItNamesNoSizeThatIsNotPredicted) {
  const std::string device = line(of({"run.device=cuda"}), "memory");
  EXPECT_NE(device.find(" on the device: weights "), std::string::npos) << device;
  EXPECT_NE(device.find("; the data stays on the host"), std::string::npos) << device;
  EXPECT_EQ(device.find(" 0 B"), std::string::npos) << device;
  EXPECT_EQ(device.find("program"), std::string::npos) << device;
  const std::string host = line(of({}), "memory");
  EXPECT_EQ(host.find("device"), std::string::npos) << host;
  EXPECT_NE(host.find(", data 1.95 KiB, program "), std::string::npos) << host;
}

TEST_F(OpeningText, GradientsInIntegersAreNamedWhereThereAreSome) {
  const auto scheme = [&](std::vector<std::string> arguments) {
    arguments.emplace_back("train.backward=int8");
    return line(of(arguments), "scheme");
  };
  EXPECT_EQ(scheme({"scheme.default=none"}), "scheme     none, other products in f32");
  EXPECT_EQ(scheme({"scheme.default=w4a16"}), "scheme     w4a16, other products in f32");
  EXPECT_EQ(scheme({"scheme.default=w4a4"}),
            "scheme     w4a4, other products in f32, gradients in int8");
  EXPECT_EQ(scheme({"scheme.default=none", "scheme.layers=head=w4a4"}),
            "scheme     none (+1 layer override), other products in f32, gradients in int8");
}

}  // namespace
}  // namespace quest::app
