// Arena: one allocation of a backend, handed out as tensors in order.
#pragma once

#include <cstddef>

#include "backend/backend.h"

namespace quest {

/// Owns `capacity_bytes` of a backend's memory. Tensors taken from it are aligned to 64 bytes,
/// start as zeros (until memory is reused after `rewind`), and live as long as the arena.
///
/// A measuring arena (default constructed) owns nothing: it hands out null tensors of the right
/// shape and counts, so that the code which lays memory out is also what predicts it.
class Arena {
 public:
  Arena() = default;
  Arena(Backend& backend, std::size_t capacity_bytes);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Tensor take(Shape shape, DType dtype);
  bool measuring() const { return backend_ == nullptr; }
  /// Bytes handed out now, and the most that ever were.
  std::size_t used_bytes() const { return used_bytes_; }
  std::size_t peak_bytes() const { return peak_bytes_; }
  /// Everything that was handed out, as one f32 tensor: flat views of parameters and moments.
  Tensor flat_f32() const;

  /// `rewind(mark())` gives back what was taken in between.
  std::size_t mark() const { return used_bytes_; }
  void rewind(std::size_t mark) { used_bytes_ = mark; }

 private:
  Backend* backend_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t capacity_bytes_ = 0;
  std::size_t used_bytes_ = 0;
  std::size_t peak_bytes_ = 0;
};

}  // namespace quest
