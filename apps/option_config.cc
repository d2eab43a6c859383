// Values of options from a TOML file and from --set, by way of CLI11's own conversions.
#include "apps/option_config.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <set>

#include "apps/text.h"
#include "core/error.h"
#include "core/file.h"

namespace quest::app {
namespace {

std::string key_of(const CLI::Option& option) { return option.get_lnames().front(); }
bool is_switch(const CLI::Option& option) { return option.get_items_expected_max() == 0; }
bool is_list(const CLI::Option& option) { return option.get_items_expected_max() > 1; }

bool is_number(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  return type == "N" || type == "X";
}

// What would be typed after the flag.
std::string typed_text(const SettingValue& value) {
  const auto* text = std::get_if<std::string>(&value);
  return text != nullptr ? *text : toml_value(value);
}

std::vector<std::string> typed_texts(const CLI::Option& option, const Assignment& assignment) {
  const auto* list = std::get_if<std::vector<std::string>>(&assignment.value);
  if (is_list(option) && list != nullptr) return *list;
  if (list != nullptr) {
    throw UsageError(
        fmt::format("{}: {} must be one value, not a list", assignment.origin, assignment.key));
  }
  const std::string text = typed_text(assignment.value);
  if (is_switch(option) && text != "true" && text != "false") {
    throw UsageError(fmt::format("{}: {} must be true or false, not '{}'", assignment.origin,
                                 assignment.key, text));
  }
  return {text};
}

void give(CLI::Option& option, const Assignment& assignment) {
  const std::vector<std::string> texts = typed_texts(option, assignment);
  try {
    option.add_result(texts);
    option.run_callback();
  } catch (const CLI::ParseError& error) {
    throw UsageError(fmt::format("{}: {}", assignment.origin, error.what()));
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: {}", assignment.origin, error.what()));
  }
}

bool excluded_by(const CLI::Option& option, const std::set<const CLI::Option*>& others) {
  const std::set<CLI::Option*> excluded = option.get_excludes();
  return std::any_of(excluded.begin(), excluded.end(),
                     [&](const CLI::Option* other) { return others.contains(other); });
}

// A list as TOML writes it, of whole numbers where the option takes such and was given nothing
// else.
std::string list_text(const CLI::Option& option, const CLI::results_t& given) {
  std::string numbers;
  for (const std::string& text : given) {
    const auto whole = is_number(option) ? parse_whole(text) : std::nullopt;
    if (!whole) return toml_value(SettingValue(given));
    numbers += (numbers.empty() ? "" : ", ") + toml_value(SettingValue(*whole));
  }
  return "[" + numbers + "]";
}

// The option's value as TOML writes it; empty when it has none.
std::string value_text(const CLI::Option& option) {
  const CLI::results_t& given = option.results();
  if (is_switch(option)) return given.empty() ? "false" : given.back();
  if (is_list(option)) return given.empty() ? "" : list_text(option, given);
  const std::string text = given.empty() ? option.get_default_str() : given.back();
  if (given.empty() && text.empty()) return "";
  if (is_number(option)) {
    if (const auto whole = parse_whole(text)) return toml_value(SettingValue(*whole));
    if (const auto real = parse_real(text)) return toml_value(SettingValue(*real));
  }
  return toml_value(SettingValue(text));
}

}  // namespace

void OptionConfig::declare(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option == app.get_help_ptr() || option == app.get_help_all_ptr()) continue;
    options_.push_back(option);
    if (option->get_required()) required_.push_back(option);
    for (CLI::Option* needed : option->get_needs()) needs_.emplace_back(option, needed);
  }
  app.add_option("--config", path_, "read options from a TOML file; flags override it")
      ->type_name("FILE");
  app.add_option("--set", set_arguments_, "set an option by its name, e.g. json=true; repeat it")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  app.add_flag("--print-config", print_, "print the resolved options as TOML and stop");
}

void OptionConfig::relax() {
  for (CLI::Option* option : required_) option->required(false);
  for (const auto& [option, needed] : needs_) option->remove_needs(needed);
}

void OptionConfig::restore() {
  for (CLI::Option* option : required_) option->required();
  for (const auto& [option, needed] : needs_) option->needs(needed);
}

void OptionConfig::apply() const {
  apply_layer(set_layer());
  if (!path_.empty()) apply_layer(parse_plain_config(read_file(path_), path_));
}

void OptionConfig::require_all() const {
  for (const CLI::Option* option : required_) {
    if (option->count() == 0) throw UsageError(fmt::format("--{} is required", key_of(*option)));
  }
  for (const auto& [option, needed] : needs_) {
    if (option->count() == 0 || needed->count() > 0) continue;
    throw UsageError(fmt::format("--{} requires --{}", key_of(*option), key_of(*needed)));
  }
}

std::string OptionConfig::print() const {
  std::string out;
  for (const CLI::Option* option : options_) {
    const std::string value = value_text(*option);
    const std::string line =
        fmt::format("{}{} = {}", value.empty() ? "# " : "", key_of(*option), value);
    out += fmt::format("{:<32}  # {}\n", line, option->get_description());
  }
  return out;
}

// Layers come strongest first, so what has a value keeps it.
void OptionConfig::apply_layer(const std::vector<Assignment>& layer) const {
  std::set<const CLI::Option*> stronger;
  for (const CLI::Option* option : options_) {
    if (option->count() > 0) stronger.insert(option);
  }
  std::map<CLI::Option*, const Assignment*> values;
  for (const Assignment& assignment : layer) values[&find(assignment)] = &assignment;
  std::set<const CLI::Option*> given;
  for (const auto& [option, assignment] : values) {
    if (stronger.contains(option) || excluded_by(*option, stronger)) continue;
    if (excluded_by(*option, given)) {
      throw UsageError(fmt::format("{}: {} excludes another option that is given",
                                   assignment->origin, assignment->key));
    }
    give(*option, *assignment);
    given.insert(option);
  }
}

CLI::Option& OptionConfig::find(const Assignment& assignment) const {
  std::vector<std::string> keys;
  for (CLI::Option* option : options_) {
    keys.push_back(key_of(*option));
    if (keys.back() == assignment.key) return *option;
  }
  throw UsageError(fmt::format(
      "{}: there is no option '{}'{}", assignment.origin, assignment.key,
      nearest_hint(nearest_text(assignment.key, keys), "; --print-config prints them all")));
}

std::vector<Assignment> OptionConfig::set_layer() const {
  std::vector<Assignment> layer;
  for (const std::string& argument : set_arguments_) {
    const auto [key, text] = split_set_argument(argument);
    Assignment assignment{std::string(key), std::string(text), "--set"};
    if (is_list(find(assignment))) assignment.value = split(text, ',');
    layer.push_back(std::move(assignment));
  }
  return layer;
}

}  // namespace quest::app
