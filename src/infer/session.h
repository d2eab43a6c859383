// Session: one growing sequence of tokens and the model's prediction of the next one.
#pragma once

#include <cstdint>
#include <span>

#include "infer/sequences.h"

namespace quest {

/// Sizes of a session's memory; see SequencesOptions.
struct SessionOptions {
  std::int64_t capacity = 0;
  std::int64_t chunk = 256;
  std::optional<DType> kept = {};
};

/// Runs a model over one sequence, keeping keys and values. The passes are those of training and
/// evaluation, so the logits are too.
class Session {
 public:
  /// The model's weights must be ready, and the model must outlive the session. Throws Error when
  /// memory is short.
  explicit Session(const RunnableModel& model, const SessionOptions& options = {});

  /// Appends `tokens`, at least one, and returns the logits [V] of the token that follows them;
  /// they stay valid until the next call. Throws Error, and appends nothing, when the tokens are
  /// none, do not fit, or are not of the vocabulary.
  std::span<const float> prefill(std::span<const std::int32_t> tokens);
  /// `prefill` of one token.
  std::span<const float> decode(std::int32_t token) { return prefill({&token, 1}); }

  /// Forgets all but the first `length` positions, 0 <= length <= length().
  void truncate(std::int64_t length);

  /// Positions held.
  std::int64_t length() const { return sequence_.length(0); }
  std::int64_t capacity() const { return sequence_.capacity(); }

 private:
  Sequences sequence_;
};

}  // namespace quest
