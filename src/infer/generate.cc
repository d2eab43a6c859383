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

Continuation::Continuation(GenerateOptions options) : options_(std::move(options)) {
  assert(options_.max_tokens > 0);
}

bool Continuation::choose(std::span<const float> logits, std::int64_t length,
                          std::int64_t capacity) {
  if (options_.vocab > 0) logits = logits.first(static_cast<std::size_t>(options_.vocab));
  const std::int32_t token = sample(logits, options_.sampling, length);
  end_of_text_ = token == options_.end_token;
  full_ = length == capacity;
  if (!end_of_text_) tokens_.push_back(token);
  return !end_of_text_;
}

std::optional<StopReason> Continuation::ended() const {
  if (end_of_text_) return StopReason::kEndOfText;
  if (options_.has_ended && options_.has_ended()) return StopReason::kStopText;
  if (static_cast<std::int64_t>(tokens_.size()) == options_.max_tokens) return StopReason::kLength;
  if (full_) return StopReason::kContext;
  return std::nullopt;
}

Generation generate(Session& session, std::span<const std::int32_t> prompt,
                    const GenerateOptions& options,
                    const std::function<void(std::int32_t token)>& on_token) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point last = Clock::now();
  const auto lap = [&last] {
    const Clock::time_point now = Clock::now();
    return std::chrono::duration<double>(now - std::exchange(last, now)).count();
  };

  Generation result;
  Continuation continuation(options);
  std::span<const float> logits = session.prefill(prompt);
  result.prefill_seconds = lap();
  for (;;) {
    const bool added = continuation.choose(logits, session.length(), session.capacity());
    result.decode_seconds += lap();
    if (added) on_token(continuation.tokens().back());
    lap();
    if (const auto reason = continuation.ended()) {
      result.stop_reason = *reason;
      result.tokens = continuation.tokens();
      return result;
    }
    logits = session.decode(continuation.tokens().back());
    ++result.decode_passes;
  }
}

}  // namespace quest
