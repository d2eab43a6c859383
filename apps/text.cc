// Small text helpers that several commands need.
#include "apps/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

namespace quest::app {
namespace {

// Doubles hold whole numbers exactly up to here, so "1e15" can mean an integer.
constexpr double kLargestExact = 9007199254740992.0;

std::string_view without_dashes(std::string_view name) {
  return name.substr(std::min(name.find_first_not_of('-'), name.size()));
}

std::set<std::string_view> words_of(std::string_view name) {
  std::set<std::string_view> words;
  while (!name.empty()) {
    const std::size_t end = std::min(name.find_first_of("-_. "), name.size());
    if (end > 1) words.insert(name.substr(0, end));  // a letter alone is no word
    name.remove_prefix(std::min(end + 1, name.size()));
  }
  return words;
}

bool abbreviates(std::string_view word, std::string_view name) {
  constexpr std::size_t kLeastPrefix = 3;
  return word.size() >= kLeastPrefix && name.starts_with(word);
}

bool share_a_part(std::string_view a, std::string_view b) {
  if (abbreviates(a, b) || abbreviates(b, a)) return true;
  const std::set<std::string_view> words = words_of(a), others = words_of(b);
  return std::any_of(words.begin(), words.end(),
                     [&](std::string_view word) { return others.contains(word); });
}

}  // namespace

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  if (text.empty()) return parts;
  std::size_t start = 0;
  for (std::size_t at = text.find(separator); at != std::string_view::npos;
       at = text.find(separator, start)) {
    parts.emplace_back(text.substr(start, at - start));
    start = at + 1;
  }
  parts.emplace_back(text.substr(start));
  return parts;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> cost(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const std::size_t replace = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({replace, cost[i - 1][j] + 1, cost[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

std::optional<Nearness> nearness(std::string_view word, std::string_view name) {
  word = without_dashes(word);
  name = without_dashes(name);
  const std::size_t distance = edit_distance(word, name);
  if (abbreviates(word, name)) return Nearness{false, std::min<std::size_t>(distance, 1)};
  if (3 * distance <= std::max(word.size(), name.size())) return Nearness{false, distance};
  if (share_a_part(word, name)) return Nearness{true, distance};
  return std::nullopt;
}

std::string nearest_text(std::string_view word, const std::vector<std::string>& candidates) {
  std::optional<Nearness> least;
  std::string nearest;
  for (const std::string& candidate : candidates) {
    const std::optional<Nearness> near = nearness(word, candidate);
    if (!near || (least && *near >= *least)) continue;
    least = near;
    nearest = candidate;
  }
  return nearest;
}

std::string nearest_hint(std::string_view nearest, std::string_view otherwise) {
  return nearest.empty() ? std::string(otherwise) : fmt::format("; the nearest is '{}'", nearest);
}

std::string alternatives(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? " or " : ", ";
    text += names[i];
  }
  return text;
}

std::string with_commas(long long value) {
  std::string digits = fmt::format("{}", value);
  const std::size_t first = value < 0 ? 1 : 0;
  for (std::size_t at = digits.size(); at > first + 3;) {
    at -= 3;
    digits.insert(at, ",");
  }
  return digits;
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds > 1e9) return "unknown";
  const auto total = static_cast<std::int64_t>(std::llround(std::max(seconds, 0.0)));
  const std::int64_t minutes = total / 60, hours = minutes / 60, days = hours / 24;
  if (minutes == 0) return fmt::format("{} s", total);
  if (hours == 0) return fmt::format("{} min {:02} s", minutes, total % 60);
  if (days == 0) return fmt::format("{} h {:02} min", hours, minutes % 60);
  return fmt::format("{} d {:02} h", days, hours % 24);
}

std::string size_text(double size_bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  while (size_bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    size_bytes /= 1024;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f} B", size_bytes);
  const int decimals = size_bytes < 10 ? 2 : size_bytes < 100 ? 1 : 0;
  return fmt::format("{:.{}f} {}", size_bytes, decimals, kUnits[unit]);
}

std::vector<std::string> wrap(std::string_view text, std::size_t width) {
  std::vector<std::string> lines;
  for (const std::string& word : split(text, ' ')) {
    if (word.empty()) continue;
    if (lines.empty() || lines.back().size() + 1 + word.size() > width) {
      lines.push_back(word);
    } else {
      lines.back() += ' ' + word;
    }
  }
  return lines;
}

std::optional<std::int64_t> parse_whole(std::string_view text) {
  std::int64_t whole = 0;
  const char* end = text.data() + text.size();
  if (auto [stop, error] = std::from_chars(text.data(), end, whole);
      error == std::errc() && stop == end) {
    return whole;
  }
  double real = 0;
  auto [stop, error] = std::from_chars(text.data(), end, real);
  if (error != std::errc() || stop != end) return std::nullopt;
  if (real != std::floor(real) || std::abs(real) > kLargestExact) return std::nullopt;
  return static_cast<std::int64_t>(real);
}

std::optional<double> parse_real(std::string_view text) {
  double real = 0;
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, real);
  if (error != std::errc() || stop != end) return std::nullopt;
  return real;
}

}  // namespace quest::app
