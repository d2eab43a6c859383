// Reading memory and doing nothing else: what work that is bound by memory is compared with.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace quest {

/// Pieces of memory that `threads` threads read in turn, each thread its share of each, in the ways
/// that this CPU has: with or without asking for what comes later.
class MemoryReads {
 public:
  using Piece = std::span<const std::byte>;
  /// The pieces must outlive this.
  MemoryReads(int threads, std::vector<Piece> pieces)
      : threads_(threads), pieces_(std::move(pieces)) {}

  /// Ways of reading that this CPU has: at least one.
  static std::size_t ways();
  /// Seconds in which all pieces are read once, in way `way` < ways().
  double seconds(std::size_t way) const;

 private:
  int threads_;
  std::vector<Piece> pieces_;
};

/// Reads of `bytes` bytes in all, each of `threads` threads its share, over and over: 10^9 bytes a
/// second, in the fastest of several short runs. 0 where there are too few bytes to read.
double measure_read_rate(int threads, std::size_t bytes);

}  // namespace quest
