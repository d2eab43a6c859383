// Properties of the settings over random values: printing and reading are inverse.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <bit>
#include <cmath>

#include "apps/settings.h"
#include "core/error.h"

namespace quest::app {
namespace {

std::vector<Assignment> no_preset(const std::string&) { return {}; }

// Any text that UTF-8 can hold: ASCII with its control characters, and letters of 2 to 4 bytes.
std::string random_text() {
  const auto pieces = *rc::gen::container<std::vector<std::string>>(rc::gen::oneOf(
      rc::gen::map(rc::gen::inRange(1, 128), [](int c) { return std::string(1, char(c)); }),
      rc::gen::element<std::string>("\"", "\\", "\n", "\r\n", "ß", "語", "😀", "#", "'''")));
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  return text;
}

// Values that are awkward to print (no point, long without an exponent, tiny), and any other bits.
double random_real(const Range& range) {
  const auto inside = [&](double value) { return range.contains(value); };
  const auto awkward = rc::gen::element(0.0, 0.5, 1.0, 12345678901234567890.0, 0.1, 1e300, 5e-324);
  const auto any = rc::gen::map(rc::gen::arbitrary<std::uint64_t>(),
                                [](std::uint64_t bits) { return std::bit_cast<double>(bits); });
  // Few bit patterns lie between 0 and 1, where the bounded settings are.
  const auto share =
      rc::gen::map(rc::gen::inRange(0, 1 << 30), [](int part) { return part / double(1 << 30); });
  return *rc::gen::suchThat(rc::gen::oneOf(awkward, any, share), inside);
}

struct Randomize {
  TrainSettings& settings;
  const Setting& setting;

  void operator()(Setting::Member<bool> m) const { m(settings) = *rc::gen::arbitrary<bool>(); }
  void operator()(Setting::Member<std::int64_t> m) const {
    const auto low = static_cast<std::int64_t>(setting.range.low);
    const std::int64_t high = std::isfinite(setting.range.high)
                                  ? static_cast<std::int64_t>(setting.range.high)
                                  : std::numeric_limits<std::int64_t>::max();
    m(settings) = *rc::gen::inRange(low, high);
  }
  void operator()(Setting::Member<double> m) const { m(settings) = random_real(setting.range); }
  void operator()(Setting::Member<std::string> m) const {
    m(settings) = setting.choices.empty() ? random_text() : *rc::gen::elementOf(setting.choices);
  }
  void operator()(Setting::Member<std::vector<std::string>> m) const {
    m(settings).clear();
    for (int i = *rc::gen::inRange(0, 4); i > 0; --i) m(settings).push_back(random_text());
  }
  void operator()(Setting::Member<FractionOrSteps> m) const {
    if (*rc::gen::arbitrary<bool>()) {
      m(settings) = {true, random_real({.low = 0, .high = 1, .high_open = true}), 0};
    } else {
      m(settings) = {false, 0, *rc::gen::inRange<std::int64_t>(0, 1LL << 60)};
    }
  }
};

TrainSettings random_settings() {
  TrainSettings settings;
  for (const Setting& setting : all_settings()) {
    std::visit(Randomize{settings, setting}, setting.access);
  }
  // At most one length: that is what `resolve_settings` accepts.
  const int kept = *rc::gen::inRange(0, 3);
  if (kept != 0) settings.train.steps = 0;
  if (kept != 1) settings.train.tokens = 0;
  if (kept != 2) settings.train.epochs = 0;
  return settings;
}

TEST(SettingsProperty, APrintedConfigReadsBackTheSame) {
  EXPECT_TRUE(rc::check("print, then parse", [] {
    const TrainSettings settings = random_settings();
    const std::string printed = print_config(settings);
    SettingSources sources;
    sources.config_file = parse_config(printed, "printed.toml");
    RC_ASSERT(resolve_settings(sources, no_preset) == settings);
  }));
}

TEST(SettingsProperty, ArbitraryTextIsReadOrRefusedWithAUsageError) {
  EXPECT_TRUE(rc::check("no other exception", [] {
    const Setting& setting =
        *rc::gen::elementOf(std::vector<Setting>(all_settings().begin(), all_settings().end()));
    TrainSettings settings;
    try {
      assign(settings, parse_assignment(setting.key, random_text(), "--set"));
    } catch (const UsageError& error) {
      RC_ASSERT(std::string(error.what()).find(setting.key) != std::string::npos);
    }
  }));
}

}  // namespace
}  // namespace quest::app
