// Every setting of a training run: plain values, and the one list from which flags, files and help
// come.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace quest::app {

/// The most steps or windows of a run; products of two such counts fit 64 bits.
inline constexpr double kMostCount = 2147483647;
/// The most tokens of a step, from which counts of bytes follow, and of a run.
inline constexpr double kMostStepTokens = 1099511627776;  // 2^40
inline constexpr double kMostRunTokens = 1e18;
/// The most tokens of a micro-batch, so that bytes of activations fit 64 bits in any model.
inline constexpr double kMostBatchTokens = 268435456;  // 2^28

/// A length given as a share of the run ("0.1") or as a number of steps ("200").
struct FractionOrSteps {
  bool is_fraction = true;
  double fraction = 0;     ///< In [0, 1); meaningful when is_fraction.
  std::int64_t steps = 0;  ///< Meaningful otherwise.

  bool operator==(const FractionOrSteps&) const = default;
};

/// The resolved settings. Zero stands for "not given" or "derived" where the help text says so.
struct TrainSettings {
  struct Model {
    std::string preset = "nano";
    std::int64_t layers = 0, width = 0, heads = 0, kv_heads = 0, head_dim = 0, hidden = 0;
    std::int64_t vocab = 0;
    bool tied_head = false;
    std::string rope_layout = "interleaved";
    double rope_theta = 10000;
    double norm_eps = 1e-5;
    bool operator==(const Model&) const = default;
  };
  struct Scheme {
    std::string base = "w4a4";
    std::vector<std::string> layers;  ///< Each "pattern=scheme".
    bool operator==(const Scheme&) const = default;
  };
  struct Data {
    std::string train, valid, tokenizer = "bytes", order;
    bool operator==(const Data&) const = default;
  };
  struct Train {
    std::int64_t steps = 0, tokens = 0;
    double epochs = 0;
    std::int64_t batch_size = 16, grad_accum = 1, seq_len = 256;
    double lr = 1e-3;
    FractionOrSteps warmup = {true, 0.1, 0};
    std::string schedule = "cosine";
    double final_lr_fraction = 0.1, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95;
    double adam_eps = 1e-8, grad_clip = 1.0;
    std::string backward = "float", optimizer_bits = "32", recompute = "none";
    std::int64_t seed = 0, data_seed = 0;
    std::int64_t eval_every = 200, sample_every = 0, sample_tokens = 200, save_every = 500;
    std::string sample_prompt;
    std::int64_t keep_last = 2, log_every = 10;
    std::string init;
    bool operator==(const Train&) const = default;
  };
  struct Run {
    std::string out, device = "cpu", dtype = "f32";
    bool resume = false, overwrite = false, dry_run = false;
    std::int64_t threads = 0;
    bool operator==(const Run&) const = default;
  };

  Model model;
  Scheme scheme;
  Data data;
  Train train;
  Run run;
  bool operator==(const TrainSettings&) const = default;
};

/// The values that a number may take; NaN and infinities never belong to it.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false, high_open = false;

  bool contains(double value) const;
  /// "greater than 0", "at least 0 and less than 1", ...
  std::string text() const;
  /// What to ask for where `given` is no std::int64_t: "a whole number", or the range if it is one
  /// that lies outside.
  std::string whole_text(std::optional<double> given) const;
};

/// One setting: its names, its help and where its value lives in TrainSettings.
struct Setting {
  template <typename T>
  using Member = T& (*)(TrainSettings&);
  using Access =
      std::variant<Member<bool>, Member<std::int64_t>, Member<double>, Member<std::string>,
                   Member<std::vector<std::string>>, Member<FractionOrSteps>>;

  std::string key;         ///< "train.lr": table and name in the config file.
  std::string flag;        ///< "--lr"
  std::string value_name;  ///< "X", shown in help; empty for a switch.
  bool common = false;     ///< Shown by --help; the others only by --help-all.
  std::string help;
  Access access;
  Range range = {};
  std::vector<std::string> choices = {};  ///< For texts: the only values; empty when free.
};

/// Every setting, in the order of help and of the printed config.
std::span<const Setting> all_settings();

/// The setting called `key`, or nullptr.
const Setting* find_setting(std::string_view key);

/// The same for a key that `origin` ("--set") names. Throws UsageError when there is none.
const Setting& setting_of(std::string_view key, const std::string& origin);

/// The key of all_settings() whose last part ("lr") or flag is nearest to that of `key`; empty when
/// none is near.
std::string nearest_key(std::string_view key);

/// The help with the choices, if there are any, in parentheses.
std::string help_text(const Setting& setting);

/// A value as a config file knows it. Integers are accepted where a real number is wanted.
using SettingValue =
    std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;

/// One assignment and where it was read ("--set", "config file run.toml"), for error texts.
struct Assignment {
  std::string key;
  SettingValue value;
  std::string origin;
};

/// Reads `text` as the kind of value that `key` has. Lists are split at commas; whole numbers may
/// be written 3e9. Throws UsageError for an unknown key or a text of the wrong kind.
Assignment parse_assignment(std::string_view key, std::string_view text, std::string origin);

/// "key=value" as --set takes it. Throws UsageError.
Assignment parse_set_argument(std::string_view argument);

/// The assignments in the TOML text of a config file called `file_name`. Throws UsageError.
std::vector<Assignment> parse_config(std::string_view toml, const std::string& file_name);

/// The two sides of "key=value". Throws UsageError for another form.
std::pair<std::string_view, std::string_view> split_set_argument(std::string_view argument);

/// The same for keys that are no settings: any top-level key, no tables. Throws UsageError.
std::vector<Assignment> parse_plain_config(std::string_view toml, const std::string& file_name);

/// Puts one value into `settings` after checking key, type and range. Throws UsageError.
void assign(TrainSettings& settings, const Assignment& assignment);

/// What each source says; the later a member, the more it counts.
struct SettingSources {
  std::vector<Assignment> config_file, set_arguments, flags;
};

/// The assignments that a preset called `name` stands for. Throws UsageError for an unknown name.
using PresetLookup = std::function<std::vector<Assignment>(const std::string& name)>;

/// Resolves: defaults < preset < config file < --set < flags. The preset is the one that the
/// strongest source names. Steps, tokens and epochs exclude each other: within one source that is
/// an error, and a stronger source replaces what a weaker one chose. Throws UsageError.
TrainSettings resolve_settings(const SettingSources& sources, const PresetLookup& presets);

/// A value as TOML writes it.
std::string toml_value(const SettingValue& value);

/// The value of one setting as TOML writes it.
std::string toml_value(const TrainSettings& settings, const Setting& setting);

/// The settings as a TOML config file, with the help texts as comments. Reading it back gives the
/// same settings, to the last bit of every number.
std::string print_config(const TrainSettings& settings);

}  // namespace quest::app
