// Config files: TOML in, and TOML out that reads back the same.
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "apps/settings.h"
#include "core/error.h"

namespace quest::app {
namespace {

// The shortest digits that read back as `value`, with a point or exponent so that TOML sees a real.
std::string toml_real(double value) {
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  std::string text(buffer, end);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// Numbers become the texts that would be typed for them.
std::optional<std::vector<std::string>> text_list(const toml::array& array) {
  std::vector<std::string> list;
  for (const toml::node& node : array) {
    if (const auto* text = node.as_string()) {
      list.push_back(text->get());
    } else if (const auto* whole = node.as_integer()) {
      list.push_back(fmt::format("{}", whole->get()));
    } else if (const auto* real = node.as_floating_point()) {
      list.push_back(toml_real(real->get()));
    } else {
      return std::nullopt;
    }
  }
  return list;
}

std::optional<SettingValue> value_of(const toml::node& node) {
  if (const auto* value = node.as_boolean()) return value->get();
  if (const auto* value = node.as_integer()) return value->get();
  if (const auto* value = node.as_floating_point()) return value->get();
  if (const auto* value = node.as_string()) return value->get();
  if (const auto* value = node.as_array()) return text_list(*value);
  return std::nullopt;
}

Assignment read_assignment(const std::string& key, const toml::node& node,
                           const std::string& origin) {
  std::optional<SettingValue> value = value_of(node);
  if (!value) {
    throw UsageError(
        fmt::format("{}: {} must be a number, a text, true, false or a list of texts or "
                    "numbers",
                    origin, key));
  }
  return {key, *std::move(value), origin};
}

bool is_table(const std::string& name) {
  const auto settings = all_settings();
  return std::any_of(settings.begin(), settings.end(), [&](const Setting& setting) {
    return setting.key.compare(0, name.size() + 1, name + ".") == 0;
  });
}

void collect(const toml::table& table, const std::string& prefix, const std::string& origin,
             std::vector<Assignment>& out) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    const auto* inner = node.as_table();
    if (inner != nullptr && is_table(key)) {
      collect(*inner, key + ".", origin, out);
      continue;
    }
    if (inner != nullptr && prefix.empty()) {
      throw UsageError(fmt::format(
          "{}: there is no table [{}]; the tables are model, scheme, data, train and run", origin,
          key));
    }
    setting_of(key, origin);
    out.push_back(read_assignment(key, node, origin));
  }
}

// Hands the root table of `text` to `read`.
template <typename Read>
void with_toml(std::string_view text, const std::string& origin, Read read) {
  try {
    read(toml::parse(text));
  } catch (const toml::parse_error& error) {
    throw UsageError(fmt::format("{}, line {}, column {}: {}", origin, error.source().begin.line,
                                 error.source().begin.column, error.description()));
  }
}

std::string toml_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string toml_list(const std::vector<std::string>& texts) {
  std::string out = "[";
  for (const std::string& text : texts) out += (out.size() > 1 ? ", " : "") + toml_text(text);
  return out + "]";
}

struct Print {
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(std::int64_t value) const { return fmt::format("{}", value); }
  std::string operator()(double value) const { return toml_real(value); }
  std::string operator()(const std::string& value) const { return toml_text(value); }
  std::string operator()(const std::vector<std::string>& value) const { return toml_list(value); }
  std::string operator()(const FractionOrSteps& value) const {
    return value.is_fraction ? toml_real(value.fraction) : fmt::format("{}", value.steps);
  }
};

}  // namespace

std::vector<Assignment> parse_config(std::string_view toml, const std::string& file_name) {
  const std::string origin = "config file " + file_name;
  std::vector<Assignment> assignments;
  with_toml(toml, origin,
            [&](const toml::table& table) { collect(table, "", origin, assignments); });
  return assignments;
}

std::vector<Assignment> parse_plain_config(std::string_view toml, const std::string& file_name) {
  const std::string origin = "config file " + file_name;
  std::vector<Assignment> assignments;
  with_toml(toml, origin, [&](const toml::table& table) {
    for (const auto& [name, node] : table) {
      const std::string key(name.str());
      if (node.is_table()) {
        throw UsageError(
            fmt::format("{}: there is no table [{}]; the options stand without one", origin, key));
      }
      assignments.push_back(read_assignment(key, node, origin));
    }
  });
  return assignments;
}

std::string toml_value(const SettingValue& value) { return std::visit(Print{}, value); }

std::string toml_value(const TrainSettings& settings, const Setting& setting) {
  TrainSettings copy = settings;  // the members are reached through accessors that may write
  return std::visit([&](auto member) { return Print{}(member(copy)); }, setting.access);
}

std::string print_config(const TrainSettings& settings) {
  std::string out, table;
  for (const Setting& setting : all_settings()) {
    const std::size_t dot = setting.key.find('.');
    if (table != setting.key.substr(0, dot)) {
      table = setting.key.substr(0, dot);
      out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", table);
    }
    // Never set (no preset gave it): leaving it out keeps it so.
    const std::string value = toml_value(settings, setting);
    if (setting.range.low == 1 && value == "0") continue;
    out += fmt::format("{:<32}  # {}\n", setting.key.substr(dot + 1) + " = " + value,
                       help_text(setting));
  }
  return out;
}

}  // namespace quest::app
