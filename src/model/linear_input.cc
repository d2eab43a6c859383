// Forms of a linear layer's input: memory, values, errors.
#include "model/linear_input.h"

namespace quest {

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

std::size_t InputForms::index_of(const LinearScheme& scheme) {
  InputForm form{scheme.activation, scheme.integer_product(), {}};
  if (scheme.activation.quantized()) {
    form.quantizer = RowQuantizer::make(scheme.activation, scheme.transform, columns_);
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

LinearInput InputForms::take(Arena& arena, Tensor x, std::int64_t rows, bool for_backward,
                             DType compute) const {
  LinearInput input{x, {}};
  for (const InputForm& form : forms_) {
    PreparedInput prepared;
    if (form.quantizer) {
      prepared.rows = take_quantized_rows(
          arena, rows, columns_, for_backward && form.quantizer->has_mask(), form.activation.bits);
      if (!form.integer_product) prepared.dense = arena.take({rows, columns_}, compute);
    } else {
      prepared.dense = x;
    }
    input.forms.push_back(prepared);
  }
  return input;
}

void InputForms::fill(Backend& backend, const LinearInput& input, const MadeOf& made_of,
                      bool keep_x) const {
  if (only_codes() && !keep_x) {
    backend.quantize_source(input.forms[0].rows, {input.x, made_of}, *forms_[0].quantizer);
    return;
  }
  if (const auto* norm = std::get_if<RowSource::Norm>(&made_of)) {
    backend.rmsnorm(input.x, norm->rstd, norm->x, norm->weight, norm->epsilon);
  } else if (const auto* swiglu = std::get_if<RowSource::Swiglu>(&made_of)) {
    backend.swiglu(input.x, swiglu->gate, swiglu->up);
  }
  for (std::size_t i = 0; i < forms_.size(); ++i) {
    if (!forms_[i].quantizer) continue;
    const PreparedInput& prepared = input.forms[i];
    backend.quantize_rows(prepared.rows, input.x, *forms_[i].quantizer);
    if (prepared.dense) {
      backend.dequantize_rows(prepared.dense, prepared.rows, forms_[i].quantizer->block);
    }
  }
}

bool InputForms::read_dense_input() const {
  for (const InputForm& form : forms_) {
    if (!form.quantizer) return true;
  }
  return false;
}

bool InputForms::quantize() const {
  for (const InputForm& form : forms_) {
    if (form.quantizer) return true;
  }
  return false;
}

QuantizedRows take_quantized_rows(Arena& arena, std::int64_t rows, std::int64_t columns,
                                  bool with_mask, int bits) {
  QuantizedRows taken;
  taken.bits = bits;
  taken.codes = arena.take({rows, columns}, DType::kI8);
  taken.steps = arena.take({rows}, DType::kF32);
  taken.code_sums = arena.take({rows}, DType::kI32);
  if (with_mask) taken.mask = arena.take({rows, (columns + 7) / 8}, DType::kU8);
  return taken;
}

QuantizedRows first_rows(const QuantizedRows& rows, std::int64_t count) {
  QuantizedRows slice;
  slice.bits = rows.bits;
  slice.codes = rows.codes.rows_slice(0, count);
  slice.steps = rows.steps.rows_slice(0, count);
  slice.code_sums = rows.code_sums.rows_slice(0, count);
  if (rows.mask) slice.mask = rows.mask.rows_slice(0, count);
  return slice;
}

QuantizationError& QuantizationError::operator+=(const QuantizationError& more) {
  masked += more.masked;
  squared_error += more.squared_error;
  squared_value += more.squared_value;
  count += more.count;
  return *this;
}

QuantizationError measured_error(Backend& backend, Tensor sums, Tensor x, const QuantizedRows& rows,
                                 const RowQuantizer& quantizer) {
  double host[3];
  backend.zero(sums);
  backend.quantization_error(sums, x, rows, quantizer);
  backend.copy(view_of(host, {3}), sums);
  backend.synchronize();
  return {host[0], host[1], host[2], static_cast<double>(x.numel())};
}

QuantizationError input_error(Backend& backend, const InputForms& forms, const LinearInput& input,
                              Tensor sums) {
  QuantizationError total;
  for (std::size_t i = 0; i < forms.all().size(); ++i) {
    const auto& quantizer = forms.all()[i].quantizer;
    if (quantizer) total += measured_error(backend, sums, input.x, input.forms[i].rows, *quantizer);
  }
  return total;
}

}  // namespace quest
