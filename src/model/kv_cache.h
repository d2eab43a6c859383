// KvCache: the keys and values that attention reads, kept or passed through.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/arena.h"
#include "backend/backend.h"
#include "model/config.h"

namespace quest {

/// New positions of one kept sequence in a pass.
struct PassPart {
  std::int64_t slot;
  std::int64_t count;
};

/// Keys and values of up to `slots` sequences, each of a length of its own. A pass-through cache
/// (training, evaluation) keeps nothing: every pass starts at position 0, and attention reads what
/// the pass itself computed.
class KvCache {
 public:
  /// Pass-through.
  KvCache() = default;
  /// Keeps up to `capacity` positions a sequence, as floats of type `dtype`, or in 8 bits (I8).
  KvCache(Arena& arena, const ModelConfig& config, DType dtype, std::int64_t slots,
          std::int64_t capacity);

  bool keeps() const { return !layers_.empty(); }
  std::int64_t slots() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t capacity() const { return capacity_; }
  /// Positions held of a sequence: the position of its next token.
  std::int64_t length(std::int64_t slot) const { return lengths_[static_cast<std::size_t>(slot)]; }

  /// Says what the rows of the next pass are: the parts' new positions, one part after the other.
  /// Every slot has one part at most. The sequences are longer now.
  void begin_pass(Backend& backend, std::span<const PassPart> parts);
  /// Where those rows lie; valid until the next pass begins.
  SequenceSpans spans() const;
  /// One more than the last position of any of them.
  std::int64_t pass_end() const;
  /// out [rows of the pass, H D] = attention of a layer's queries, which are turned first, over
  /// what is kept and the pass's own keys and values, which are kept too. qkv [rows of the pass,
  /// (H + 2 Hkv) D] is scratch afterwards.
  void attend(Backend& backend, std::int64_t layer, Tensor out, Tensor qkv, const Rotary& rotary,
              const HeadShape& shape) const;

  /// Forgets all but the first `length` positions of a sequence.
  void truncate(std::int64_t slot, std::int64_t length) {
    lengths_[static_cast<std::size_t>(slot)] = length;
  }

 private:
  struct Layer {
    CacheRows k;
    CacheRows v;
  };
  std::vector<Layer> layers_;
  std::int64_t capacity_ = 0;
  std::vector<std::int64_t> lengths_;
  std::vector<SequenceSpan> spans_;
  Tensor device_spans_;  // i64 [slots, 4], where the backend is not on the host
};

}  // namespace quest
