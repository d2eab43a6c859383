// Session: one growing sequence of tokens and the model's prediction of the next one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/arena.h"
#include "model/activations.h"
#include "model/kv_cache.h"
#include "model/runnable_model.h"

namespace quest {

/// Sizes of a session's memory.
struct SessionOptions {
  /// Most positions that the sequence may have; 0, or more than the model's max_positions: that.
  std::int64_t capacity = 0;
  /// Positions that one pass of `prefill` takes at most.
  std::int64_t chunk = 256;
};

/// Runs a model over one sequence, keeping keys and values. The passes are those of training and
/// evaluation, so the logits are too.
class Session {
 public:
  /// The model's weights must be prepared, and the model must outlive the session. Throws Error
  /// when memory is short.
  explicit Session(const RunnableModel& model, const SessionOptions& options = {});
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Appends `tokens`, at least one, and returns the logits [V] of the token that follows them;
  /// they stay valid until the next call. Throws Error, and appends nothing, when the tokens are
  /// none, do not fit, or are not of the vocabulary.
  std::span<const float> prefill(std::span<const std::int32_t> tokens);
  /// `prefill` of one token.
  std::span<const float> decode(std::int32_t token) { return prefill({&token, 1}); }

  /// Forgets all but the first `length` positions, 0 <= length <= length().
  void truncate(std::int64_t length);

  /// Positions held.
  std::int64_t length() const { return cache_.length(); }
  std::int64_t capacity() const { return cache_.capacity(); }

 private:
  void check(std::span<const std::int32_t> tokens) const;
  void run(std::span<const std::int32_t> tokens);

  const RunnableModel* model_;
  std::int64_t chunk_;
  Arena cache_memory_;
  KvCache cache_;
  Arena pass_memory_;  // the activations of a pass, laid out anew when its shape changes
  std::size_t pass_mark_;
  Tensor tokens_;  // i32 [chunk]
  Activations activations_;
  std::vector<float> logits_;
};

}  // namespace quest
