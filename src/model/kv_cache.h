// KvCache: the keys and values that attention reads, kept or passed through.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/arena.h"
#include "backend/backend.h"
#include "model/config.h"

namespace quest {

/// What attention reads for one layer: k and v of every position so far.
struct KvView {
  Tensor k;
  Tensor v;
  std::int64_t key_length;
  std::int64_t key_capacity;
};

/// Keys and values of B sequences of equal length. A pass-through cache (training, evaluation)
/// keeps nothing: every forward starts at position 0 and attention reads what it was given.
class KvCache {
 public:
  /// Pass-through.
  KvCache() = default;
  /// Keeps up to `capacity` positions a sequence, in type `dtype`.
  KvCache(Arena& arena, const ModelConfig& config, DType dtype, std::int64_t batch,
          std::int64_t capacity);

  /// Adds the `length` new positions k, v [batch * length, Hkv*D] of a layer.
  KvView append(Backend& backend, std::int64_t layer, Tensor k, Tensor v, std::int64_t batch,
                std::int64_t length) const;
  /// Called once after all layers have appended.
  void advance(std::int64_t length) {
    if (!layers_.empty()) length_ += length;
  }
  /// Forgets all but the first `length` positions.
  void truncate(std::int64_t length) { length_ = length; }

  /// Positions held: the position of the next token.
  std::int64_t length() const { return length_; }
  std::int64_t capacity() const { return capacity_; }

 private:
  struct Layer {
    Tensor k;
    Tensor v;
  };
  std::vector<Layer> layers_;
  std::int64_t capacity_ = 0;
  std::int64_t length_ = 0;
};

}  // namespace quest
