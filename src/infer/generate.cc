// Prefill, then sample and decode until something ends it.
#include "infer/generate.h"

#include <cassert>
#include <chrono>

namespace quest {

std::string_view name(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfText:
      return "end_of_text";
    case StopReason::kLength:
      return "length";
    case StopReason::kContext:
      return "context";
    case StopReason::kStopText:
      return "stop";
  }
  return "";
}

Generation generate(Session& session, std::span<const std::int32_t> prompt,
                    const GenerateOptions& options,
                    const std::function<void(std::int32_t token)>& on_token) {
  assert(options.max_tokens > 0);
  using Clock = std::chrono::steady_clock;
  Clock::time_point last = Clock::now();
  const auto lap = [&last] {
    const Clock::time_point now = Clock::now();
    return std::chrono::duration<double>(now - std::exchange(last, now)).count();
  };

  Generation result;
  std::span<const float> logits = session.prefill(prompt);
  result.prefill_seconds = lap();
  for (;;) {
    if (options.vocab > 0) logits = logits.first(static_cast<std::size_t>(options.vocab));
    const std::int32_t token = sample(logits, options.sampling, session.length());
    result.decode_seconds += lap();
    if (token == options.end_token) {
      result.stop_reason = StopReason::kEndOfText;
      return result;
    }
    result.tokens.push_back(token);
    on_token(token);
    lap();
    if (options.has_ended && options.has_ended()) {
      result.stop_reason = StopReason::kStopText;
      return result;
    }
    if (static_cast<std::int64_t>(result.tokens.size()) == options.max_tokens) {
      result.stop_reason = StopReason::kLength;
      return result;
    }
    if (session.length() == session.capacity()) {
      result.stop_reason = StopReason::kContext;
      return result;
    }
    logits = session.decode(token);
    ++result.decode_passes;
  }
}

}  // namespace quest
