// The forward pass of packed linear layers.
#include "model/packed_linear.h"

#include <cassert>
#include <cstddef>

namespace quest {
namespace {

// Whether the memory of b begins where that of a ends; where memory is only counted, there is none.
bool follows(const Tensor& a, const Tensor& b) {
  return a && static_cast<const std::byte*>(a.data) + a.bytes() == b.data;
}

// Whether a and b are two parts of one matrix: a product with both is one product.
bool is_one_matrix(const PackedPart& a, const PackedPart& b) {
  return a.scheme == b.scheme && a.block == b.block && a.rows.bits > 0 &&
         a.rows.bits == b.rows.bits && follows(a.rows.codes, b.rows.codes) &&
         follows(a.rows.steps, b.rows.steps) && follows(a.rows.code_sums, b.rows.code_sums);
}

// `a` and the part that follows it.
PackedPart joined(PackedPart a, const PackedPart& b) {
  const std::int64_t rows = a.outputs() + b.outputs();
  a.rows.codes.shape = {rows, a.rows.codes.cols()};
  a.rows.steps.shape = {rows};
  a.rows.code_sums.shape = {rows};
  return a;
}

}  // namespace

PackedLinear::PackedLinear(std::vector<PackedPart> parts, std::int64_t columns, DType compute)
    : columns_(columns), compute_(compute), forms_(columns) {
  std::int64_t begin = 0;
  for (const PackedPart& part : parts) {
    const std::int64_t outputs = part.outputs();
    if (!segments_.empty() && is_one_matrix(segments_.back().part, part)) {
      segments_.back().part = joined(segments_.back().part, part);
      begin += outputs;
      continue;
    }
    segments_.push_back({part, begin, forms_.index_of(part.scheme)});
    begin += outputs;
  }
}

void PackedLinear::is_followed_by(const PackedLinear& next) {
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const Segment& follower = i + 1 < segments_.size() ? segments_[i + 1] : next.segments_.front();
    segments_[i].part.rows.next_codes = follower.part.rows.codes;
  }
}

LinearInput PackedLinear::take_input(Arena& arena, Tensor x, std::int64_t rows,
                                     bool for_backward) const {
  assert(!for_backward);
  return forms_.take(arena, x, rows, for_backward, compute_);
}

void PackedLinear::forward(Backend& backend, Tensor y, const LinearInput& input, Write write,
                           const MadeOf& made_of, bool keep_x) const {
  if (segments_.size() == 1 && forms_.only_codes() && !keep_x) {
    const InputForm& form = forms_.all()[0];
    backend.quantize_packed_matmul(y, input.forms[0].rows, {input.x, made_of}, *form.quantizer,
                                   form.activation.bits, segments_[0].part.rows, write);
    return;
  }
  forms_.fill(backend, input, made_of, keep_x);
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

void PackedLinear::multiply_rope(Backend& backend, Tensor y, const LinearInput& input,
                                 const Rotary& rotary) const {
  multiply(backend, y, input, Write::kSet);
  backend.rope(y.columns(0, rotary.columns), rotary.cos, rotary.sin, rotary.layout, 0,
               rotary.length, false);
}

}  // namespace quest
