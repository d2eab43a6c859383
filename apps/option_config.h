// --config, --set and --print-config of commands whose options are not settings of a run.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "apps/settings.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace quest::app {

/// Gives every option of a command a key, its long name without dashes ("temp", "batch-size"),
/// which a config file and --set know. From weakest to strongest: defaults, file, --set, flags.
class OptionConfig {
 public:
  /// Adds --config, --set and --print-config to `app`, whose other options are all declared.
  void declare(CLI::App& app);

  /// Before parsing: keeps CLI11 from asking for options that are required or that others need,
  /// which a file may give.
  void relax();
  /// After parsing, done or failed: help and `require_all` know them again.
  void restore();

  /// After parsing: gives the options that no flag set the values of --set, then of the file, as if
  /// they had been typed. Throws UsageError for an unknown key or a wrong value, Error when the
  /// file cannot be read.
  void apply() const;
  /// Throws UsageError when a required option has no value, or one that another option needs.
  void require_all() const;

  bool print_requested() const { return print_; }
  /// The options as TOML, with the help texts as comments; those without a value are commented out.
  std::string print() const;

 private:
  void apply_layer(const std::vector<Assignment>& layer) const;
  CLI::Option& find(const Assignment& assignment) const;
  std::vector<Assignment> set_layer() const;

  std::vector<CLI::Option*> options_, required_;
  std::vector<std::pair<CLI::Option*, CLI::Option*>> needs_;  // an option and what it needs
  std::string path_;
  std::vector<std::string> set_arguments_;
  bool print_ = false;
};

}  // namespace quest::app
