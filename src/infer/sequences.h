// Sequences: growing sequences of tokens that share the passes of one model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/arena.h"
#include "model/activations.h"
#include "model/kv_cache.h"
#include "model/runnable_model.h"

namespace quest {

/// Sizes of the memory of kept sequences.
struct SequencesOptions {
  std::int64_t slots = 1;  ///< sequences at a time, at most kMostSlots
  /// Most positions that a sequence may have; 0, or more than the model's max_positions: that.
  std::int64_t capacity = 0;
  /// Positions of one sequence that a pass takes at most.
  std::int64_t chunk = 256;
  /// How keys and values are kept: F32, BF16, or I8 with a scale a head; none: as computed.
  std::optional<DType> kept = {};
};

/// New tokens of one sequence, for one pass.
struct NewTokens {
  std::int64_t slot;
  std::span<const std::int32_t> tokens;
  bool wants_logits = true;  ///< of the token that follows them
};

/// Runs a model over up to `slots` sequences, keeping their keys and values. Each token of a pass
/// is computed from its own sequence only; a pass reads the weights once for all of them.
class Sequences {
 public:
  static constexpr std::int64_t kMostSlots = 64;

  /// The model's weights must be ready, and the model must outlive this. Throws Error when memory
  /// is short.
  explicit Sequences(const RunnableModel& model, const SequencesOptions& options);
  Sequences(const Sequences&) = delete;
  Sequences& operator=(const Sequences&) = delete;

  /// Throws Error unless `tokens` are of the vocabulary and fit into what is left of a sequence.
  void check(std::int64_t slot, std::span<const std::int32_t> tokens) const;

  /// One pass: appends the parts' tokens, which pass `check`, one part a slot, each of 1 to chunk()
  /// tokens and together of at most pass_rows(). Returns the logits [n, V] of those parts that want
  /// them, in their order; valid until the next call.
  std::span<const float> run(std::span<const NewTokens> parts);

  /// Forgets all but the first `length` positions of a sequence.
  void truncate(std::int64_t slot, std::int64_t length) { cache_.truncate(slot, length); }

  std::int64_t length(std::int64_t slot) const { return cache_.length(slot); }
  std::int64_t capacity() const { return cache_.capacity(); }
  std::int64_t slots() const { return cache_.slots(); }
  std::int64_t chunk() const { return chunk_; }
  /// A chunk of one sequence and a token of every other one.
  std::int64_t pass_rows() const { return chunk_ + slots() - 1; }
  std::int64_t vocab() const { return model_->config().vocab; }

 private:
  void lay_out(std::int64_t rows);
  void gather_last_rows(std::span<const NewTokens> parts) const;
  // The recording of passes of one token of each of `rows` sequences.
  Recording& decoding(std::int64_t rows);

  const RunnableModel* model_;
  std::int64_t chunk_;
  Arena cache_memory_;
  KvCache cache_;
  Arena pass_memory_;  // the activations of a pass, laid out anew when its rows change
  Tensor tokens_;      // i32 [pass_rows]
  std::size_t pass_mark_;
  Activations activations_;
  std::vector<std::unique_ptr<Recording>> decodings_;  // by their rows, less one
  std::vector<float> logits_;                          // of a device
};

}  // namespace quest
