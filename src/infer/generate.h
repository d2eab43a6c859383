// The loop that continues a prompt token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "infer/sampler.h"
#include "infer/session.h"

namespace quest {

struct GenerateOptions {
  std::int64_t max_tokens = 0;  ///< at least 1
  SamplingOptions sampling = {};
  std::optional<std::int32_t> end_token = {};  ///< stop when it is chosen
  /// Only the first `vocab` tokens are chosen from: a model may have more than its tokenizer. 0:
  /// all.
  std::int64_t vocab = 0;
  /// Asked after each token: whether the text has ended. Null: never.
  std::function<bool()> has_ended = nullptr;
};

enum class StopReason : std::uint8_t {
  kEndOfText,  ///< the end token was chosen; it is not among the tokens
  kLength,     ///< max_tokens were made
  kContext,    ///< the session is full
  kStopText,   ///< options.has_ended said so
};
/// "end_of_text", "length", "context", "stop".
std::string_view name(StopReason reason);

/// What `generate` did.
struct Generation {
  std::vector<std::int32_t> tokens;  ///< without the prompt
  StopReason stop_reason = StopReason::kLength;
  double prefill_seconds = 0.0;  ///< the prompt's pass
  double decode_seconds = 0.0;   ///< everything after it, `on_token` not counted
  std::int64_t decode_passes = 0;

  /// Speed of decoding, without the prompt; 0 when the prompt's pass gave the only token.
  double tokens_per_second() const {
    return decode_passes > 0 ? static_cast<double>(decode_passes) / decode_seconds : 0.0;
  }
};

/// The choices of one sequence: what follows from the logits, until something ends it.
class Continuation {
 public:
  explicit Continuation(GenerateOptions options);

  /// Chooses a token from the logits after `length` of at most `capacity` positions. Returns
  /// whether one was added to tokens(); the end token is not. Throws what `sample` throws.
  bool choose(std::span<const float> logits, std::int64_t length, std::int64_t capacity);
  /// After what was chosen has been passed on: the reason to stop, or none when tokens().back() is
  /// to be run.
  std::optional<StopReason> ended() const;
  const std::vector<std::int32_t>& tokens() const { return tokens_; }

 private:
  GenerateOptions options_;
  std::vector<std::int32_t> tokens_;
  bool end_of_text_ = false;
  bool full_ = false;
};

/// Appends `prompt` to the session and then what the model makes of it. `on_token` is called with
/// each new token as it comes and may throw. Throws what Session::prefill and `sample` throw.
Generation generate(Session& session, std::span<const std::int32_t> prompt,
                    const GenerateOptions& options,
                    const std::function<void(std::int32_t token)>& on_token);

}  // namespace quest
