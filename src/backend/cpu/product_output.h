// ProductOutput: where a product puts its sums, and the rotary embedding that may end it.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/rows/float_kernels.h"

namespace quest {

struct IndexRange {
  std::int64_t begin, end;
  std::int64_t count() const { return end - begin; }
  bool operator==(const IndexRange&) const = default;
};

/// A rotary embedding with what computes it.
struct RotaryEnd {
  const Rotary& rotary;
  const FloatKernels& kernels;
};

struct ProductOutput {
  Tensor y;  ///< float [M, N], may be a column slice
  Write write;
  const RotaryEnd* rotary = nullptr;  ///< null: sums stay as they are

  /// To be called when these rows and columns of y are written, by a thread that writes its rows
  /// from left to right: turns the heads that end in these columns, while they are in its cache.
  void wrote(IndexRange rows, IndexRange columns) const {
    if (rotary != nullptr) turn(rows, columns);
  }
  /// Turns all heads: for products in which rows are shared by threads.
  void wrote_all(int threads) const;

 private:
  void turn(IndexRange rows, IndexRange columns) const;
};

}  // namespace quest
