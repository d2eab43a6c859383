// Continuing many prompts side by side: sequences that end make room for the next prompt.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "infer/generate.h"
#include "infer/sequences.h"

namespace quest {

/// One prompt of a batch and what is to happen with its continuation.
struct BatchPrompt {
  std::vector<std::int32_t> tokens;  ///< must pass Sequences::check for an empty sequence
  GenerateOptions options;
  std::function<void(std::int32_t token)> on_token;  ///< each new token as it comes
  std::function<void(const std::vector<std::int32_t>& tokens, StopReason reason)> on_end;
};

/// What generate_batch did.
struct BatchTotals {
  std::int64_t prompts = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t new_tokens = 0;
  std::int64_t passes = 0;
  double seconds = 0.0;  ///< without the time in `next` and the prompts' own functions
};

/// Runs every prompt that `next` returns, until it returns none, `sequences.slots()` at a time. A
/// pass holds the next token of each sequence that is past its prompt, and pieces of prompts, cut
/// as Session::prefill cuts them, while there is room; so each prompt gets the tokens that
/// `generate` gives it alone. `next` is asked whenever a slot is free. Throws what `sample` and the
/// functions throw.
BatchTotals generate_batch(Sequences& sequences,
                           const std::function<std::optional<BatchPrompt>()>& next);

}  // namespace quest
