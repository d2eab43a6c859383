// TextStream: bytes that arrive in pieces, passed on as whole characters.
#pragma once

#include <string>
#include <string_view>

namespace quest {

/// Tokens may stand for parts of characters. This holds back a character that is not complete yet
/// and replaces what can never become one by U+FFFD, so that what comes out is well-formed UTF-8
/// after every call.
class TextStream {
 public:
  /// The characters that `bytes` completes.
  std::string push(std::string_view bytes);
  /// What is left when nothing follows: U+FFFD if a character was cut, else nothing.
  std::string finish();

 private:
  std::string held_;  // the start of a character
};

}  // namespace quest
