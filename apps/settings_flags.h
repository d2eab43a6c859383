// Settings on the command line: a flag a setting, --config, --set and --print-config.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/settings.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace quest::app {

/// Whether `key` starts with one of `prefixes`.
bool starts_with_one_of(std::string_view key, const std::vector<std::string>& prefixes);

/// Throws UsageError when a micro-batch or a step has so many tokens that counts of bytes could
/// overflow. `resolve` does so; it is to be done again where a model decides about `seq_len`.
void check_step_size(const TrainSettings::Train& train);

/// Declares the flags of settings on a subcommand and, after parsing, resolves them.
class SettingsFlags {
 public:
  /// Adds a flag for each setting whose key starts with one of `prefixes` ("model.", "train.lr"),
  /// or for every setting when there are none, and --config, --set and --print-config, which know
  /// every key. Settings that are not common go to groups that only --help-all shows.
  void declare(CLI::App& app, const std::vector<std::string>& prefixes = {});

  /// What was given, by the precedence of `resolve_settings`. Without --config the file
  /// `default_config` is read instead, if it is not empty. Throws UsageError, or Error when the
  /// config file cannot be read.
  TrainSettings resolve(const PresetLookup& presets, const std::string& default_config = "") const;

  /// Throws UsageError where --set names a key that starts with one of `prefixes`, because `option`
  /// says what it would.
  void refuse_set_arguments(const std::vector<std::string>& prefixes,
                            std::string_view option) const;

  /// Whether --print-config was given: print `print_config(resolve(...))` and stop.
  bool print_config_requested() const { return print_config_; }

 private:
  std::vector<std::pair<const Setting*, CLI::Option*>> flags_;
  std::string config_path_;
  std::vector<std::string> set_arguments_;
  bool print_config_ = false;
};

}  // namespace quest::app
