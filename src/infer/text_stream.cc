// Holding back incomplete characters and replacing impossible ones.
#include "infer/text_stream.h"

#include "data/utf8.h"

namespace quest {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string TextStream::push(std::string_view bytes) {
  held_ += bytes;
  std::string_view rest = held_;
  std::string out;
  while (!rest.empty()) {
    const Utf8Check check = check_utf8(rest);
    out += rest.substr(0, check.valid_bytes);
    rest.remove_prefix(check.valid_bytes);
    if (rest.empty() || check.cut) break;
    out += kReplacement;
    rest.remove_prefix(1);
  }
  held_ = std::string(rest);
  return out;
}

std::string TextStream::finish() {
  const bool cut = !held_.empty();
  held_.clear();
  return cut ? std::string(kReplacement) : std::string();
}

}  // namespace quest
