// Number options of commands, with the same sentences as settings when the text is wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "apps/settings.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace quest::app {

/// Adds an option that sets `value`, whose present value help shows as the default unless
/// `required`. Parsing throws UsageError for a text that is no number or outside `range`; whole
/// numbers may be written 3e9. `value` must outlive the parsing.
CLI::Option* add_whole(CLI::App& app, const std::string& names, std::int64_t& value,
                       const Range& range, const std::string& help, bool required = false);
/// The same for the few numbers in `choices`.
CLI::Option* add_choice(CLI::App& app, const std::string& names, std::int64_t& value,
                        const std::vector<std::int64_t>& choices, const std::string& help);
CLI::Option* add_real(CLI::App& app, const std::string& names, double& value, const Range& range,
                      const std::string& help, bool required = false);

/// A check of an option that takes several numbers: each must be a whole number from `low` to
/// `high`, without an exponent; the check throws UsageError that names `option`.
std::function<std::string(const std::string&)> whole_from_to(const std::string& option,
                                                             std::int64_t low, std::int64_t high);

}  // namespace quest::app
