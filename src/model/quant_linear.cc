// Forward and backward of linear layers under quantization schemes.
#include "model/quant_linear.h"

#include <algorithm>
#include <cassert>

namespace quest {

QuantLinear::QuantLinear(const LinearLayout& layout, const std::vector<LinearScheme>& part_schemes,
                         DType compute, bool trains, Tensor weight, Tensor gradient,
                         Arena& prepared)
    : layout_(layout),
      compute_(compute),
      trains_(trains),
      weight_(weight),
      gradient_(gradient),
      forms_(layout.columns) {
  assert(part_schemes.size() == layout.parts.size());
  std::int64_t begin = 0;
  for (std::size_t part = 0; part < part_schemes.size(); ++part) {
    const LinearScheme& scheme = part_schemes[part];
    const std::int64_t end = begin + layout.parts[part].rows;
    if (!segments_.empty() && segments_.back().scheme == scheme) {
      segments_.back().end = end;
    } else {
      Segment segment{scheme, begin, end, forms_.index_of(scheme), {}, {}, {}};
      if (scheme.weight.quantized()) {
        segment.quantizer = RowQuantizer::make(scheme.weight, scheme.transform, layout.columns);
      }
      segments_.push_back(segment);
    }
    begin = end;
  }
  assert(begin == weight.rows() && layout.columns == weight.cols());
  for (Segment& segment : segments_) take_prepared(segment, prepared);
}

void QuantLinear::take_prepared(Segment& segment, Arena& prepared) const {
  const std::int64_t rows = segment.end - segment.begin;
  if (segment.quantizer) {
    segment.rows =
        take_quantized_rows(prepared, rows, columns(), trains_ && segment.quantizer->has_mask(),
                            segment.scheme.weight.bits);
  }
  if (segment.scheme.integer_product()) return;
  // An f32 product reads unquantized weights where they are.
  const bool in_place = !segment.quantizer && compute_ == DType::kF32;
  segment.dense = in_place ? weight_.rows_slice(segment.begin, segment.end)
                           : prepared.take({rows, columns()}, compute_);
}

Tensor QuantLinear::gradient_of(const Segment& segment) const {
  return gradient_.rows_slice(segment.begin, segment.end);
}

void QuantLinear::prepare_weights(Backend& backend) const {
  for (const Segment& segment : segments_) {
    const Tensor weight = weight_.rows_slice(segment.begin, segment.end);
    if (segment.quantizer) {
      backend.quantize_rows(segment.rows, weight, *segment.quantizer);
      if (segment.dense) {
        backend.dequantize_rows(segment.dense, segment.rows, segment.quantizer->block);
      }
    } else if (segment.dense.data != weight.data) {
      backend.cast(segment.dense, weight);
    }
  }
}

LinearInput QuantLinear::take_input(Arena& arena, Tensor x, std::int64_t rows,
                                    bool for_backward) const {
  return forms_.take(arena, x, rows, for_backward, compute_);
}

bool QuantLinear::reads_dense_input() const { return forms_.read_dense_input(); }

bool QuantLinear::quantizes_input() const { return forms_.quantize(); }

void QuantLinear::forward(Backend& backend, Tensor y, const LinearInput& input, Write write,
                          const MadeOf& made_of, bool keep_x) const {
  forms_.fill(backend, input, made_of, keep_x);
  multiply(backend, y, input, write);
}

void QuantLinear::multiply(Backend& backend, Tensor y, const LinearInput& input,
                           Write write) const {
  for (const Segment& segment : segments_) multiply_segment(backend, segment, y, input, write);
}

void QuantLinear::multiply_segment(Backend& backend, const Segment& segment, Tensor y,
                                   const LinearInput& input, Write write) const {
  const Tensor out = y.columns(segment.begin, segment.end);
  const PreparedInput& prepared = input.forms[segment.form];
  if (segment.scheme.integer_product()) {
    backend.quantized_matmul(out, prepared.rows, segment.rows, write);
  } else {
    backend.matmul(out, prepared.dense, segment.dense, write);
  }
}

void QuantLinear::multiply_rope(Backend& backend, Tensor y, const LinearInput& input,
                                const Rotary& rotary) const {
  for (const Segment& segment : segments_) {
    Rotary own = rotary;
    own.columns = std::min(rotary.columns, segment.end) - segment.begin;
    const Tensor out = y.columns(segment.begin, segment.end);
    const PreparedInput& prepared = input.forms[segment.form];
    if (own.columns <= 0) {
      multiply_segment(backend, segment, y, input, Write::kSet);
    } else if (segment.scheme.integer_product()) {
      backend.quantized_matmul_rope(out, prepared.rows, segment.rows, own);
    } else {
      backend.matmul_rope(out, prepared.dense, segment.dense, own);
    }
  }
}

// Both gradients of a segment whose product is one of integers.
void QuantLinear::integer_gradients(Backend& backend, const Segment& segment, Tensor target,
                                    Tensor d_out, const QuantizedRows& x,
                                    const GradientOptions& options, Write write) const {
  const Tensor gradient = gradient_of(segment);
  RoundingKeys* const rounding = options.rounding;
  if (rounding == nullptr) {
    backend.quantized_matmul_grad_input(target, d_out, segment.rows, write);
    backend.quantized_matmul_grad_weight(gradient, d_out, x, options.weights);
  } else {
    backend.integer_matmul_grad_input(target, d_out, segment.rows, rounding->next(), write);
    backend.integer_matmul_grad_weight(gradient, d_out, x, rounding->next(), options.weights);
  }
}

std::int64_t QuantLinear::integer_products() const {
  return std::count_if(segments_.begin(), segments_.end(),
                       [](const Segment& segment) { return segment.scheme.integer_product(); });
}

void QuantLinear::backward(Backend& backend, Tensor d_x, Tensor d_y, const LinearInput& input,
                           Tensor d_z, const GradientOptions& options) const {
  Write write = Write::kSet;
  for (std::size_t i = 0; i < forms_.all().size(); ++i) {
    const InputForm& form = forms_.all()[i];
    const PreparedInput& prepared = input.forms[i];
    // A quantized input gathers its gradient in the domain of its product, then masks and rotates.
    const Tensor target = form.quantizer ? d_z : d_x;
    Write target_write = form.quantizer ? Write::kSet : write;
    for (const Segment& segment : segments_) {
      if (segment.form != i) continue;
      const Tensor d_out = d_y.columns(segment.begin, segment.end);
      if (form.integer_product) {
        integer_gradients(backend, segment, target, d_out, prepared.rows, options, target_write);
      } else {
        backend.matmul_grad_input(target, d_out, segment.dense, target_write);
        backend.matmul_grad_weight(gradient_of(segment), d_out, prepared.dense, options.weights);
      }
      target_write = Write::kAdd;
    }
    if (form.quantizer) {
      const std::int64_t block = form.quantizer->block;
      // A dense product lies in the domain of x: rotate into the one where the mask lives.
      if (!form.integer_product && block > 1) {
        backend.quantize_rows_backward(d_z, d_z, Tensor(), block, Write::kSet);
      }
      backend.quantize_rows_backward(d_x, d_z, prepared.rows.mask, block, write);
    }
    write = Write::kAdd;
  }
}

void QuantLinear::finish(Backend& backend, Tensor out, Write write) const {
  for (const Segment& segment : segments_) {
    if (!segment.quantizer) continue;
    const Tensor gradient = gradient_of(segment);
    const std::int64_t block = segment.quantizer->block;
    if (!segment.scheme.integer_product() && block > 1) {
      backend.quantize_rows_backward(gradient, gradient, Tensor(), block, Write::kSet);
    }
    backend.quantize_rows_backward(out.rows_slice(segment.begin, segment.end), gradient,
                                   segment.rows.mask, block, write);
  }
}

QuantizationError QuantLinear::weight_error(Backend& backend, Tensor sums) const {
  QuantizationError total;
  for (const Segment& segment : segments_) {
    if (!segment.quantizer) continue;
    total += measured_error(backend, sums, weight_.rows_slice(segment.begin, segment.end),
                            segment.rows, *segment.quantizer);
  }
  return total;
}

QuantizationError QuantLinear::input_error(Backend& backend, const LinearInput& input,
                                           Tensor sums) const {
  return quest::input_error(backend, forms_, input, sums);
}

}  // namespace quest
