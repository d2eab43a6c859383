// StopTexts: ends a text before the first of some texts, which may arrive in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quest {

/// Holds back bytes that may become a stop text, so that no part of one is ever passed on.
class StopTexts {
 public:
  /// Empty texts stop nothing.
  explicit StopTexts(std::vector<std::string> texts);

  /// What of the bytes so far is certain not to belong to a stop text; nothing after one was found.
  std::string push(std::string_view bytes);
  /// What is held when nothing follows.
  std::string finish();
  bool found() const { return found_; }

 private:
  std::vector<std::string> texts_;
  std::string held_;
  bool found_ = false;
};

}  // namespace quest
