// The rotary embedding as the end of a product.
#include "backend/cpu/product_output.h"

#include <algorithm>

#include "backend/cpu/rows/float_rows.h"

namespace quest {

void ProductOutput::turn(IndexRange rows, IndexRange columns) const {
  const Rotary& r = rotary->rotary;
  const std::int64_t half = r.cos.cols(), head_dim = 2 * half;
  const std::int64_t first = columns.begin / head_dim;
  const std::int64_t heads = std::min(columns.end, r.columns) / head_dim - first;
  if (heads <= 0) return;
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    const std::int64_t position = i % r.length;
    rotary->kernels.rope(row_of(y, i, first * head_dim), r.cos.row<float>(position),
                         r.sin.row<float>(position), 1.0f, r.layout == RopeLayout::kInterleaved,
                         half, heads);
  }
}

void ProductOutput::wrote_all(int threads) const {
  if (rotary == nullptr) return;
  for_each_row(threads, y.rows(), rotary->rotary.columns, [&](std::int64_t i) {
    turn({i, i + 1}, {0, y.cols()});
  });
}

}  // namespace quest
