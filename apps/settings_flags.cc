// Settings on the command line: a flag a setting, --config, --set and --print-config.
#include "apps/settings_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "apps/backends.h"
#include "apps/command.h"
#include "core/error.h"
#include "core/file.h"

namespace quest::app {
namespace {

std::string group_of(const Setting& setting) {
  if (setting.common) return "Options";
  static const std::map<std::string, std::string> kTitles = {{"model", "Model"},
                                                             {"scheme", "Scheme"},
                                                             {"data", "Data"},
                                                             {"train", "Training"},
                                                             {"run", "Run"}};
  return kMoreGroup + kTitles.at(setting.key.substr(0, setting.key.find('.')));
}

// What a flag's help shows in brackets; nothing where zero or an empty text says "not given".
std::string default_of(const Setting& setting) {
  std::string text = toml_value(TrainSettings{}, setting);
  if (text.front() == '"') text = text.substr(1, text.size() - 2);
  return text == "0" || text == "0.0" || text == "[]" || text == "false" ? "" : text;
}

}  // namespace

void check_step_size(const TrainSettings::Train& train) {
  const double batch = static_cast<double>(train.batch_size) * static_cast<double>(train.seq_len);
  if (batch > kMostBatchTokens) {
    throw UsageError(fmt::format(
        "a micro-batch of train.batch_size * train.seq_len = {} * {} tokens is too large: {:.0f} "
        "are the most; train.grad_accum makes a step of several",
        train.batch_size, train.seq_len, kMostBatchTokens));
  }
  const double tokens = static_cast<double>(train.batch_size) *
                        static_cast<double>(train.grad_accum) * static_cast<double>(train.seq_len);
  if (tokens <= kMostStepTokens) return;
  throw UsageError(fmt::format(
      "a step of train.batch_size * train.grad_accum * train.seq_len = {} * {} * {} tokens is too "
      "large: {:.0f} are the most",
      train.batch_size, train.grad_accum, train.seq_len, kMostStepTokens));
}

bool starts_with_one_of(std::string_view key, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](const std::string& prefix) { return key.starts_with(prefix); });
}

void SettingsFlags::declare(CLI::App& app, const std::vector<std::string>& prefixes) {
  for (const Setting& setting : all_settings()) {
    if (!prefixes.empty() && !starts_with_one_of(setting.key, prefixes)) continue;
    const bool is_switch = std::holds_alternative<Setting::Member<bool>>(setting.access);
    const bool is_list =
        std::holds_alternative<Setting::Member<std::vector<std::string>>>(setting.access);
    const std::string help = help_text(setting);
    CLI::Option* flag = nullptr;
    if (is_switch) {
      flag = app.add_flag(setting.flag, help);
    } else {
      // The text is kept by CLI11 and read by `resolve`; the callback has nothing to convert.
      flag = app.add_option(
          setting.flag, [](const CLI::results_t&) { return true; }, help);
      flag->type_name(setting.value_name);
      flag->default_str(default_of(setting));
    }
    flag->group(group_of(setting));
    flag->multi_option_policy(is_list ? CLI::MultiOptionPolicy::TakeAll
                                      : CLI::MultiOptionPolicy::TakeLast);
    flags_.emplace_back(&setting, flag);
  }
  app.add_option("--config", config_path_, "read settings from a TOML file; flags override it")
      ->type_name("FILE");
  app.add_option("--set", set_arguments_, "set any key, e.g. model.width=384; repeat it")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  app.add_flag("--print-config", print_config_, "print the resolved settings as TOML and stop");
}

TrainSettings SettingsFlags::resolve(const PresetLookup& presets,
                                     const std::string& default_config) const {
  SettingSources sources;
  const std::string& config = config_path_.empty() ? default_config : config_path_;
  if (!config.empty()) sources.config_file = parse_config(read_file(config), config);
  for (const std::string& argument : set_arguments_) {
    sources.set_arguments.push_back(parse_set_argument(argument));
  }
  for (const auto& [setting, flag] : flags_) {
    if (flag->count() == 0) continue;
    const CLI::results_t& given = flag->results();
    if (std::holds_alternative<Setting::Member<std::vector<std::string>>>(setting->access)) {
      sources.flags.push_back({setting->key, given, setting->flag});
    } else {
      sources.flags.push_back(parse_assignment(setting->key, given.back(), setting->flag));
    }
  }
  const TrainSettings settings = resolve_settings(sources, presets);
  check_device(settings.run.device);
  check_step_size(settings.train);
  return settings;
}

void SettingsFlags::refuse_set_arguments(const std::vector<std::string>& prefixes,
                                         std::string_view option) const {
  for (const std::string& argument : set_arguments_) {
    const std::string key = parse_set_argument(argument).key;
    if (starts_with_one_of(key, prefixes)) {
      throw UsageError(fmt::format("{} excludes --set {}", option, argument));
    }
  }
}

}  // namespace quest::app
