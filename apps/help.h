// The layout of every --help: usage, options in groups, examples; at most 100 columns.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

namespace quest::app {

/// Prints one app's help. In the normal mode, groups that start with kMoreGroup are left out and
/// --help-all is named instead.
class HelpFormatter : public CLI::FormatterBase {
 public:
  explicit HelpFormatter(std::vector<std::string> examples) : examples_(std::move(examples)) {}

  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override;

 private:
  std::vector<std::string> examples_;
};

}  // namespace quest::app
