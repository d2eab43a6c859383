// Reads, checks and layers settings; the texts of every refusal are here.
#include "apps/settings.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "apps/text.h"
#include "core/error.h"

namespace quest::app {
namespace {

std::optional<bool> parse_switch(std::string_view text) {
  if (text == "true" || text == "1" || text == "on" || text == "yes") return true;
  if (text == "false" || text == "0" || text == "off" || text == "no") return false;
  return std::nullopt;
}

std::string show(const SettingValue& value) {
  struct Visitor {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(std::int64_t v) const { return fmt::format("{}", v); }
    std::string operator()(double v) const { return fmt::format("{}", v); }
    std::string operator()(const std::string& v) const { return fmt::format("'{}'", v); }
    std::string operator()(const std::vector<std::string>&) const { return "a list"; }
  };
  return std::visit(Visitor{}, value);
}

std::optional<double> real_of(const SettingValue& value) {
  if (const auto* real = std::get_if<double>(&value)) return *real;
  if (const auto* text = std::get_if<std::string>(&value)) return parse_real(*text);
  return std::nullopt;
}

[[noreturn]] void refuse(const Assignment& assignment, const std::string& wanted) {
  throw UsageError(fmt::format("{}: {} must be {}, not {}", assignment.origin, assignment.key,
                               wanted, show(assignment.value)));
}

// Of "train.lr": "lr". The table says little: most are wrong about it who are wrong about the name.
std::string_view last_part(std::string_view key) { return key.substr(key.rfind('.') + 1); }

std::string choice_text(const std::vector<std::string>& choices) {
  return (choices.size() > 2 ? "one of " : "") + alternatives(choices);
}

// Stores a value into the member behind a setting, one overload a kind of member.
struct Store {
  TrainSettings& settings;
  const Setting& setting;
  const Assignment& source;

  void operator()(Setting::Member<bool> member) const {
    const bool* value = std::get_if<bool>(&source.value);
    if (value == nullptr) refuse(source, "true or false");
    member(settings) = *value;
  }
  void operator()(Setting::Member<std::int64_t> member) const {
    const std::int64_t* value = std::get_if<std::int64_t>(&source.value);
    if (value == nullptr) refuse(source, setting.range.whole_text(real_of(source.value)));
    if (!setting.range.contains(static_cast<double>(*value))) refuse(source, setting.range.text());
    member(settings) = *value;
  }
  void operator()(Setting::Member<double> member) const {
    const double* real = std::get_if<double>(&source.value);
    const std::int64_t* whole = std::get_if<std::int64_t>(&source.value);
    if (real == nullptr && whole == nullptr) refuse(source, "a number");
    const double value = real != nullptr ? *real : static_cast<double>(*whole);
    if (!setting.range.contains(value)) refuse(source, setting.range.text());
    // Adding zero turns -0.0 into 0.0, which prints and compares as what was meant.
    member(settings) = value + 0.0;
  }
  void operator()(Setting::Member<std::string> member) const {
    const std::string* value = std::get_if<std::string>(&source.value);
    const auto& choices = setting.choices;
    if (value == nullptr) refuse(source, choices.empty() ? "a text" : choice_text(choices));
    if (!choices.empty() && std::find(choices.begin(), choices.end(), *value) == choices.end()) {
      refuse(source, choice_text(choices));
    }
    member(settings) = *value;
  }
  void operator()(Setting::Member<std::vector<std::string>> member) const {
    const auto* value = std::get_if<std::vector<std::string>>(&source.value);
    if (value == nullptr) refuse(source, "a list of texts");
    member(settings) = *value;
  }
  void operator()(Setting::Member<FractionOrSteps> member) const {
    const std::string wanted = "a fraction below 1 (0.1) or a whole number of steps (200)";
    if (const auto* steps = std::get_if<std::int64_t>(&source.value)) {
      if (*steps < 0) refuse(source, wanted);
      member(settings) = {false, 0, *steps};
    } else if (const auto* fraction = std::get_if<double>(&source.value)) {
      if (!(*fraction >= 0 && *fraction < 1)) refuse(source, wanted);
      member(settings) = {true, *fraction + 0.0, 0};
    } else {
      refuse(source, wanted);
    }
  }
};

// Turns a text into the kind of value that a member takes; a text that cannot be read stays a text,
// which `Store` then refuses by name.
struct ReadText {
  std::string_view text;

  SettingValue as_text() const { return std::string(text); }
  SettingValue operator()(Setting::Member<bool>) const {
    const auto value = parse_switch(text);
    return value ? SettingValue(*value) : as_text();
  }
  SettingValue operator()(Setting::Member<std::int64_t>) const {
    const auto value = parse_whole(text);
    return value ? SettingValue(*value) : as_text();
  }
  SettingValue operator()(Setting::Member<double>) const {
    const auto value = parse_real(text);
    return value ? SettingValue(*value) : as_text();
  }
  SettingValue operator()(Setting::Member<std::string>) const { return as_text(); }
  SettingValue operator()(Setting::Member<std::vector<std::string>>) const {
    return split(text, ',');
  }
  SettingValue operator()(Setting::Member<FractionOrSteps>) const {
    if (text.find_first_of(".eE") == std::string_view::npos) {
      const auto steps = parse_whole(text);
      return steps ? SettingValue(*steps) : as_text();
    }
    const auto fraction = parse_real(text);
    return fraction ? SettingValue(*fraction) : as_text();
  }
};

constexpr std::array<std::string_view, 3> kLengthKeys = {"train.steps", "train.tokens",
                                                         "train.epochs"};

bool is_length(const Assignment& assignment) {
  return std::find(kLengthKeys.begin(), kLengthKeys.end(), assignment.key) != kLengthKeys.end();
}

bool is_zero(const SettingValue& value) {
  if (const auto* whole = std::get_if<std::int64_t>(&value)) return *whole == 0;
  if (const auto* real = std::get_if<double>(&value)) return *real == 0;
  return false;
}

// One source replaces the length that a weaker source chose, but may not choose two itself.
void assign_layer(TrainSettings& settings, const std::vector<Assignment>& layer) {
  std::map<std::string, const Assignment*> lengths;
  for (const Assignment& assignment : layer) {
    if (is_length(assignment)) lengths[assignment.key] = &assignment;
  }
  std::erase_if(lengths, [](const auto& entry) { return is_zero(entry.second->value); });
  if (lengths.size() > 1) {
    throw UsageError(fmt::format("{}: {} and {} both say how long to train; give only one",
                                 lengths.begin()->second->origin, lengths.begin()->first,
                                 std::next(lengths.begin())->first));
  }
  if (lengths.size() == 1) {
    settings.train.steps = 0;
    settings.train.tokens = 0;
    settings.train.epochs = 0;
  }
  for (const Assignment& assignment : layer) assign(settings, assignment);
}

}  // namespace

bool Range::contains(double value) const {
  if (!std::isfinite(value)) return false;
  return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
}

std::string Range::text() const {
  std::string text;
  if (std::isfinite(low)) text = fmt::format("{} {}", low_open ? "greater than" : "at least", low);
  if (std::isfinite(high)) {
    if (!text.empty()) text += " and ";
    text += fmt::format("{} {}", high_open ? "less than" : "at most", high);
  }
  return text.empty() ? "a finite number" : text;
}

std::string Range::whole_text(std::optional<double> given) const {
  constexpr double kBeyond = 9223372036854775808.0;  // the least that std::int64_t lacks
  Range whole = *this;
  if (high >= kBeyond) {
    whole.high = kBeyond;
    whole.high_open = true;
  }
  const bool outside = given && *given == std::floor(*given) && !whole.contains(*given);
  return outside ? whole.text() : "a whole number";
}

const Setting* find_setting(std::string_view key) {
  for (const Setting& setting : all_settings()) {
    if (setting.key == key) return &setting;
  }
  return nullptr;
}

const Setting& setting_of(std::string_view key, const std::string& origin) {
  const Setting* setting = find_setting(key);
  if (setting == nullptr) {
    throw UsageError(
        fmt::format("{}: there is no setting '{}'{}", origin, key,
                    nearest_hint(nearest_key(key), "; --print-config prints them all")));
  }
  return *setting;
}

std::string help_text(const Setting& setting) {
  if (setting.choices.empty()) return setting.help;
  return fmt::format("{} ({})", setting.help, fmt::join(setting.choices, ", "));
}

std::string nearest_key(std::string_view key) {
  const std::string_view name = last_part(key);
  std::optional<Nearness> least;
  std::string nearest;
  for (const Setting& setting : all_settings()) {
    for (const std::string_view known : {last_part(setting.key), std::string_view(setting.flag)}) {
      const std::optional<Nearness> near = nearness(name, known);
      if (!near || (least && *near >= *least)) continue;
      least = near;
      nearest = setting.key;
    }
  }
  return nearest;
}

Assignment parse_assignment(std::string_view key, std::string_view text, std::string origin) {
  const Setting& setting = setting_of(key, origin);
  return {setting.key, std::visit(ReadText{text}, setting.access), std::move(origin)};
}

std::pair<std::string_view, std::string_view> split_set_argument(std::string_view argument) {
  const std::size_t equals = argument.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    throw UsageError(fmt::format("--set: '{}' is not of the form key=value", argument));
  }
  return {argument.substr(0, equals), argument.substr(equals + 1)};
}

Assignment parse_set_argument(std::string_view argument) {
  const auto [key, text] = split_set_argument(argument);
  return parse_assignment(key, text, "--set");
}

void assign(TrainSettings& settings, const Assignment& assignment) {
  const Setting& setting = setting_of(assignment.key, assignment.origin);
  std::visit(Store{settings, setting, assignment}, setting.access);
}

TrainSettings resolve_settings(const SettingSources& sources, const PresetLookup& presets) {
  const auto layers = {&sources.config_file, &sources.set_arguments, &sources.flags};
  TrainSettings settings;
  for (const auto* layer : layers) {
    for (const Assignment& assignment : *layer) {
      if (assignment.key == "model.preset") assign(settings, assignment);
    }
  }
  assign_layer(settings, presets(settings.model.preset));
  for (const auto* layer : layers) assign_layer(settings, *layer);
  return settings;
}

}  // namespace quest::app
