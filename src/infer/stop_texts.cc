// Finding the first stop text in a stream of bytes.
#include "infer/stop_texts.h"

#include <algorithm>
#include <utility>

namespace quest {

StopTexts::StopTexts(std::vector<std::string> texts) : texts_(std::move(texts)) {
  std::erase_if(texts_, [](const std::string& text) { return text.empty(); });
}

std::string StopTexts::push(std::string_view bytes) {
  if (found_) return "";
  held_ += bytes;
  std::size_t first = std::string::npos;
  for (const std::string& text : texts_) first = std::min(first, held_.find(text));
  if (first != std::string::npos) {
    found_ = true;
    return std::exchange(held_, "").substr(0, first);
  }
  // The longest end of what is held that begins a stop text stays.
  std::size_t kept = 0;
  for (const std::string& text : texts_) {
    for (std::size_t size = std::min(text.size() - 1, held_.size()); size > kept; --size) {
      if (held_.ends_with(std::string_view(text).substr(0, size))) kept = size;
    }
  }
  std::string out = held_.substr(0, held_.size() - kept);
  held_.erase(0, out.size());
  return out;
}

std::string StopTexts::finish() { return std::exchange(held_, ""); }

}  // namespace quest
