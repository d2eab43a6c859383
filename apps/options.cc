// Number options of commands, with the same sentences as settings when the text is wrong.
#include "apps/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "apps/text.h"
#include "core/error.h"

namespace quest::app {
namespace {

// A few numbers, with the members of a Range.
struct Choices {
  std::vector<std::int64_t> numbers;

  bool contains(double value) const {
    return std::any_of(numbers.begin(), numbers.end(),
                       [&](std::int64_t number) { return static_cast<double>(number) == value; });
  }
  std::string text() const {
    std::vector<std::string> texts;
    for (const std::int64_t number : numbers) texts.push_back(std::to_string(number));
    return alternatives(texts);
  }
};

// `parse` turns a text into an optional number; `wanted` says, of a text that is none, what to
// give.
template <typename T, typename Allowed, typename Wanted, typename Parse>
CLI::Option* add_number(CLI::App& app, const std::string& names, T& value, const Allowed& range,
                        const std::string& help, bool required, Wanted wanted, Parse parse) {
  const std::string shown = names.substr(names.rfind(',') + 1);
  const auto read = [&value, range, shown, wanted, parse](const CLI::results_t& texts) {
    const auto number = parse(texts.back());
    if (!number) {
      throw UsageError(
          fmt::format("{} must be {}, not '{}'", shown, wanted(texts.back()), texts.back()));
    }
    if (!range.contains(static_cast<double>(*number))) {
      throw UsageError(fmt::format("{} must be {}, not {}", shown, range.text(), texts.back()));
    }
    value = *number;
    return true;
  };
  CLI::Option* option = app.add_option(names, read, help);
  option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  option->required(required);
  if (!required) option->default_str(fmt::format("{}", value));
  return option;
}

}  // namespace

CLI::Option* add_whole(CLI::App& app, const std::string& names, std::int64_t& value,
                       const Range& range, const std::string& help, bool required) {
  const auto wanted = [range](const std::string& text) {
    return range.whole_text(parse_real(text));
  };
  return add_number(app, names, value, range, help, required, wanted, parse_whole)->type_name("N");
}

CLI::Option* add_choice(CLI::App& app, const std::string& names, std::int64_t& value,
                        const std::vector<std::int64_t>& choices, const std::string& help) {
  const Choices allowed{choices};
  const auto wanted = [allowed](const std::string&) { return allowed.text(); };
  return add_number(app, names, value, allowed, help, false, wanted, parse_whole)->type_name("N");
}

CLI::Option* add_real(CLI::App& app, const std::string& names, double& value, const Range& range,
                      const std::string& help, bool required) {
  const auto wanted = [](const std::string&) { return "a number"; };
  return add_number(app, names, value, range, help, required, wanted, parse_real)->type_name("X");
}

std::function<std::string(const std::string&)> whole_from_to(const std::string& option,
                                                             std::int64_t low, std::int64_t high) {
  return [=](const std::string& text) {
    const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
    const auto number = parse_whole(text);
    if (!digits || !number || *number < low || *number > high) {
      throw UsageError(
          fmt::format("{} takes numbers from {} to {}, not '{}'", option, low, high, text));
    }
    return std::string();
  };
}

}  // namespace quest::app
