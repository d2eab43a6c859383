// Forward and backward of linear layers under quantization schemes.
#include "model/quant_linear.h"

#include <algorithm>
#include <cassert>

namespace quest {
namespace {

QuantizedRows take_rows(Arena& arena, std::int64_t rows, std::int64_t columns, bool with_mask) {
  QuantizedRows taken;
  taken.codes = arena.take({rows, columns}, DType::kI8);
  taken.steps = arena.take({rows}, DType::kF32);
  taken.code_sums = arena.take({rows}, DType::kI32);
  if (with_mask) taken.mask = arena.take({rows, (columns + 7) / 8}, DType::kU8);
  return taken;
}

QuantizedRows first_rows(const QuantizedRows& rows, std::int64_t count) {
  QuantizedRows slice;
  slice.codes = rows.codes.rows_slice(0, count);
  slice.steps = rows.steps.rows_slice(0, count);
  slice.code_sums = rows.code_sums.rows_slice(0, count);
  if (rows.mask) slice.mask = rows.mask.rows_slice(0, count);
  return slice;
}

QuantizationError measured(Backend& backend, Tensor sums, Tensor x, const QuantizedRows& rows,
                           const RowQuantizer& quantizer) {
  double host[3];
  backend.zero(sums);
  backend.quantization_error(sums, x, rows, quantizer);
  backend.copy(view_of(host, {3}), sums);
  backend.synchronize();
  return {host[0], host[1], host[2], static_cast<double>(x.numel())};
}

void add(QuantizationError& total, const QuantizationError& more) {
  total.masked += more.masked;
  total.squared_error += more.squared_error;
  total.squared_value += more.squared_value;
  total.count += more.count;
}

}  // namespace

LinearInput LinearInput::with(Tensor other_x) const {
  LinearInput other{other_x, {}};
  for (const PreparedInput& form : forms) {
    PreparedInput slice;
    if (form.rows.codes) slice.rows = first_rows(form.rows, other_x.rows());
    if (form.dense) {
      slice.dense = form.rows.codes ? form.dense.rows_slice(0, other_x.rows()) : other_x;
    }
    other.forms.push_back(slice);
  }
  return other;
}

QuantLinear::QuantLinear(const LinearLayout& layout, const std::vector<LinearScheme>& part_schemes,
                         DType compute, bool trains, Tensor weight, Tensor gradient,
                         Arena& prepared)
    : layout_(layout), compute_(compute), trains_(trains), weight_(weight), gradient_(gradient) {
  assert(part_schemes.size() == layout.parts.size());
  std::int64_t begin = 0;
  for (std::size_t part = 0; part < part_schemes.size(); ++part) {
    const LinearScheme& scheme = part_schemes[part];
    const std::int64_t end = begin + layout.parts[part].rows;
    if (!segments_.empty() && segments_.back().scheme == scheme) {
      segments_.back().end = end;
    } else {
      Segment segment{scheme, begin, end, form_of(scheme), {}, {}, {}};
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

std::size_t QuantLinear::form_of(const LinearScheme& scheme) {
  Form form{scheme.activation, scheme.integer_product(), {}};
  if (scheme.activation.quantized()) {
    form.quantizer = RowQuantizer::make(scheme.activation, scheme.transform, layout_.columns);
  }
  for (std::size_t i = 0; i < forms_.size(); ++i) {
    const bool same_block = !form.quantizer || !forms_[i].quantizer ||
                            forms_[i].quantizer->block == form.quantizer->block;
    if (forms_[i].activation == form.activation &&
        forms_[i].integer_product == form.integer_product && same_block) {
      return i;
    }
  }
  forms_.push_back(form);
  return forms_.size() - 1;
}

void QuantLinear::take_prepared(Segment& segment, Arena& prepared) const {
  const std::int64_t rows = segment.end - segment.begin;
  if (segment.quantizer) {
    segment.rows = take_rows(prepared, rows, columns(), trains_ && segment.quantizer->has_mask());
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
  LinearInput input{x, {}};
  for (const Form& form : forms_) {
    PreparedInput prepared;
    if (form.quantizer) {
      prepared.rows = take_rows(arena, rows, columns(), for_backward && form.quantizer->has_mask());
      if (!form.integer_product) prepared.dense = arena.take({rows, columns()}, compute_);
    } else {
      prepared.dense = x;
    }
    input.forms.push_back(prepared);
  }
  return input;
}

bool QuantLinear::reads_dense_input() const {
  for (const Form& form : forms_) {
    if (!form.quantizer) return true;
  }
  return false;
}

bool QuantLinear::quantizes_input() const {
  return std::any_of(forms_.begin(), forms_.end(),
                     [](const Form& form) { return form.quantizer.has_value(); });
}

void QuantLinear::forward(Backend& backend, Tensor y, const LinearInput& input, Write write) const {
  for (std::size_t i = 0; i < forms_.size(); ++i) {
    if (!forms_[i].quantizer) continue;
    const PreparedInput& prepared = input.forms[i];
    backend.quantize_rows(prepared.rows, input.x, *forms_[i].quantizer);
    if (prepared.dense) {
      backend.dequantize_rows(prepared.dense, prepared.rows, forms_[i].quantizer->block);
    }
  }
  for (const Segment& segment : segments_) {
    const Tensor out = y.columns(segment.begin, segment.end);
    const PreparedInput& prepared = input.forms[segment.form];
    if (segment.scheme.integer_product()) {
      backend.quantized_matmul(out, prepared.rows, segment.rows, write);
    } else {
      backend.matmul(out, prepared.dense, segment.dense, write);
    }
  }
}

void QuantLinear::backward(Backend& backend, Tensor d_x, Tensor d_y, const LinearInput& input,
                           Tensor d_z) const {
  Write write = Write::kSet;
  for (std::size_t i = 0; i < forms_.size(); ++i) {
    const Form& form = forms_[i];
    const PreparedInput& prepared = input.forms[i];
    // A quantized input gathers its gradient in the domain of its product, then masks and rotates.
    const Tensor target = form.quantizer ? d_z : d_x;
    Write target_write = form.quantizer ? Write::kSet : write;
    for (const Segment& segment : segments_) {
      if (segment.form != i) continue;
      const Tensor d_out = d_y.columns(segment.begin, segment.end);
      if (form.integer_product) {
        backend.quantized_matmul_grad_input(target, d_out, segment.rows, target_write);
        backend.quantized_matmul_grad_weight(gradient_of(segment), d_out, prepared.rows);
      } else {
        backend.matmul_grad_input(target, d_out, segment.dense, target_write);
        backend.matmul_grad_weight(gradient_of(segment), d_out, prepared.dense);
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

void QuantLinear::finish_gradient(Backend& backend) const {
  for (const Segment& segment : segments_) {
    if (!segment.quantizer) continue;
    const Tensor gradient = gradient_of(segment);
    const std::int64_t block = segment.quantizer->block;
    if (!segment.scheme.integer_product() && block > 1) {
      backend.quantize_rows_backward(gradient, gradient, Tensor(), block, Write::kSet);
    }
    backend.quantize_rows_backward(gradient, gradient, segment.rows.mask, block, Write::kSet);
  }
}

QuantizationError QuantLinear::weight_error(Backend& backend, Tensor sums) const {
  QuantizationError total;
  for (const Segment& segment : segments_) {
    if (!segment.quantizer) continue;
    add(total, measured(backend, sums, weight_.rows_slice(segment.begin, segment.end), segment.rows,
                        *segment.quantizer));
  }
  return total;
}

QuantizationError QuantLinear::input_error(Backend& backend, const LinearInput& input,
                                           Tensor sums) const {
  QuantizationError total;
  for (std::size_t i = 0; i < forms_.size(); ++i) {
    if (!forms_[i].quantizer) continue;
    add(total, measured(backend, sums, input.x, input.forms[i].rows, *forms_[i].quantizer));
  }
  return total;
}

}  // namespace quest
