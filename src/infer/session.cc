// Session: chunked passes over one kept sequence.
#include "infer/session.h"

#include <algorithm>
#include <cassert>

namespace quest {

Session::Session(const RunnableModel& model, const SessionOptions& options)
    : sequence_(model, {.slots = 1,
                        .capacity = options.capacity,
                        .chunk = options.chunk,
                        .kept = options.kept}) {}

std::span<const float> Session::prefill(std::span<const std::int32_t> tokens) {
  sequence_.check(0, tokens);
  for (;;) {
    const auto count = std::min(tokens.size(), static_cast<std::size_t>(sequence_.chunk()));
    const bool last = count == tokens.size();
    const NewTokens part{0, tokens.first(count), last};
    const std::span<const float> logits = sequence_.run({&part, 1});
    if (last) return logits;
    tokens = tokens.subspan(count);
  }
}

void Session::truncate(std::int64_t length) {
  assert(length >= 0 && length <= sequence_.length(0));
  sequence_.truncate(0, length);
}

}  // namespace quest
