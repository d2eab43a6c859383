// Small text helpers that several commands need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quest::app {

/// The parts of `text` between `separator`s; an empty text has no parts.
std::vector<std::string> split(std::string_view text, char separator);

/// The number that all of `text` says, or nothing. Whole numbers may be written 3e9.
std::optional<std::int64_t> parse_whole(std::string_view text);
std::optional<double> parse_real(std::string_view text);

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// How far a name is from what was typed; the less, the nearer. Slips, of which an abbreviation is
/// one, come before names that only have a part in common.
struct Nearness {
  bool by_part = false;
  std::size_t distance = 0;

  auto operator<=>(const Nearness&) const = default;
};

/// How near `name` is to `word`, or nothing where nobody would write one for the other: more than a
/// third of the longer one differs, they share no whole word ("batch", "batch-size"), and neither
/// begins with the other ("gen", "generate"). Dashes before them do not count.
std::optional<Nearness> nearness(std::string_view word, std::string_view name);

/// The candidate nearest to `word`; empty when none is near.
std::string nearest_text(std::string_view word, const std::vector<std::string>& candidates);

/// "; the nearest is 'NAME'" for the end of a sentence that refuses a name, or `otherwise` where
/// `nearest` is empty.
std::string nearest_hint(std::string_view nearest, std::string_view otherwise = "");

/// "a, b or c".
std::string alternatives(const std::vector<std::string>& names);

/// 1234567 -> "1,234,567".
std::string with_commas(long long value);

/// A duration in two units at most: "8 s", "3 min 05 s", "2 h 14 min", "5 d 03 h".
std::string duration_text(double seconds);

/// A size in binary units with three digits: "812 B", "3.42 KiB", "1.50 GiB".
std::string size_text(double size_bytes);

/// `text` broken at spaces into lines of at most `width` characters (a longer word stands alone).
std::vector<std::string> wrap(std::string_view text, std::size_t width);

}  // namespace quest::app
