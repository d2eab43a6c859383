// The forward pass of packed linear layers.
#include "model/packed_linear.h"

#include <cassert>

namespace quest {

PackedLinear::PackedLinear(std::vector<PackedPart> parts, std::int64_t columns, DType compute)
    : columns_(columns), compute_(compute), forms_(columns) {
  std::int64_t begin = 0;
  for (PackedPart& part : parts) {
    const std::int64_t outputs = part.outputs();
    segments_.push_back({part, begin, forms_.index_of(part.scheme)});
    begin += outputs;
  }
}

LinearInput PackedLinear::take_input(Arena& arena, Tensor x, std::int64_t rows,
                                     bool for_backward) const {
  assert(!for_backward);
  return forms_.take(arena, x, rows, for_backward, compute_);
}

void PackedLinear::forward(Backend& backend, Tensor y, const LinearInput& input,
                           Write write) const {
  forms_.fill(backend, input);
  multiply(backend, y, input, write);
}

void PackedLinear::multiply(Backend& backend, Tensor y, const LinearInput& input,
                            Write write) const {
  for (const Segment& segment : segments_) {
    const PackedPart& part = segment.part;
    const Tensor out = y.columns(segment.begin, segment.begin + part.outputs());
    const PreparedInput& prepared = input.forms[segment.form];
    if (part.scheme.integer_product()) {
      backend.packed_matmul(out, prepared.rows, part.scheme.activation.bits, part.rows, write);
    } else if (part.scheme.weight.quantized()) {
      backend.packed_dense_matmul(out, prepared.dense, part.rows, part.block, write);
    } else {
      backend.stored_matmul(out, prepared.dense, part.dense, write);
    }
  }
}

}  // namespace quest
