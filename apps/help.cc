// The layout of every --help: usage, options in groups, examples; at most 100 columns.
#include "apps/help.h"

#include <fmt/format.h>

#include <algorithm>

#include "apps/command.h"
#include "apps/text.h"

namespace quest::app {
namespace {

constexpr std::size_t kColumns = 100;

struct Row {
  std::string left, right;
};

std::string left_of(const CLI::Option& option) {
  std::string names;
  for (const std::string& name : option.get_snames()) names += (names.empty() ? "-" : ", -") + name;
  for (const std::string& name : option.get_lnames()) {
    names += (names.empty() ? "--" : ", --") + name;
  }
  if (names.empty()) names = option.get_name(true);
  const std::string type = option.get_type_name();
  return option.get_items_expected_max() == 0 || type.empty() ? names : names + " " + type;
}

std::string right_of(const CLI::Option& option) {
  std::string text = option.get_description();
  if (!option.get_default_str().empty()) text += " [" + option.get_default_str() + "]";
  return option.get_required() ? text + " (required)" : text;
}

std::string rows_text(const std::vector<Row>& rows) {
  std::size_t left = 0;
  for (const Row& row : rows) left = std::max(left, row.left.size());
  left = std::min<std::size_t>(left, 30);
  std::string out;
  for (const Row& row : rows) {
    const std::vector<std::string> lines = wrap(row.right, kColumns - left - 4);
    out += fmt::format("  {:<{}}  {}\n", row.left, left, lines.empty() ? "" : lines.front());
    for (std::size_t i = 1; i < lines.size(); ++i) {
      out += fmt::format("  {:<{}}  {}\n", "", left, lines[i]);
    }
  }
  return out;
}

std::vector<Row> option_rows(const CLI::App& app, const std::string& group) {
  std::vector<Row> rows;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group() != group) continue;
    if (option == app.get_help_ptr() || option == app.get_help_all_ptr()) continue;
    rows.push_back({left_of(*option), right_of(*option)});
  }
  return rows;
}

}  // namespace

std::string HelpFormatter::make_help(const CLI::App* app, std::string name,
                                     CLI::AppFormatMode mode) const {
  const auto subcommands = app->get_subcommands({});
  std::string out = app->get_description() + (app->get_parent() == nullptr ? "\n" : ".\n");
  out += fmt::format("\nUsage: {} {}\n", name, subcommands.empty() ? "[OPTIONS]" : "COMMAND");

  std::vector<Row> rows;
  for (const CLI::App* inner : subcommands) {
    rows.push_back({inner->get_name(), inner->get_description()});
  }
  if (!rows.empty()) out += "\nCommands:\n" + rows_text(rows);

  bool hidden = false;
  for (const std::string& group : app->get_groups()) {
    if (group.empty()) continue;
    const bool more = group.starts_with(kMoreGroup);
    hidden = hidden || more;
    if (more && mode != CLI::AppFormatMode::All) continue;
    rows = option_rows(*app, group);
    if (rows.empty()) continue;
    out +=
        fmt::format("\n{}:\n{}", more ? group.substr(kMoreGroup.size()) : group, rows_text(rows));
  }
  if (hidden && mode != CLI::AppFormatMode::All) out += "  --help-all shows the other options.\n";

  if (!examples_.empty()) out += examples_.size() == 1 ? "\nMore:\n" : "\nExamples:\n";
  for (const std::string& example : examples_) out += "  " + example + "\n";
  return out;
}

}  // namespace quest::app
