// Validation of UTF-8 text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quest {

/// How far a text is well-formed UTF-8.
struct Utf8Check {
  std::size_t valid_bytes;  ///< Length of the longest well-formed prefix.
  bool cut;  ///< What follows the prefix is a character that the end of the text cuts short.
};

/// Checks `text` by the table of Unicode 15, section 3.9: no overlong forms, no surrogates, nothing
/// above U+10FFFF. An empty text is well-formed.
Utf8Check check_utf8(std::string_view text);

/// Throws Error, with `name` in front, unless all of `text` is well-formed.
void require_utf8(std::string_view text, const std::string& name);

}  // namespace quest
