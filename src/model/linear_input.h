// LinearInput: what linear layers read, prepared once for all the weights that read it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "backend/arena.h"
#include "backend/backend.h"
#include "quant/scheme.h"

namespace quest {

/// One way in which a linear layer reads its input: as codes, as dequantized values, or as it is.
struct PreparedInput {
  QuantizedRows rows;  ///< null tensors when this form does not quantize
  Tensor dense;        ///< what a dense product reads; null when the product is one of integers
};

/// The input of a linear layer, float [R, K], and its prepared forms, in the layer's order.
struct LinearInput {
  Tensor x;
  std::vector<PreparedInput> forms;

  /// The same buffers for another x of at most as many rows.
  LinearInput with(Tensor other_x) const;
};

/// What an input is made of, if anything; see RowSource.
using MadeOf = decltype(RowSource::made_of);

/// A form of the input that some weights read.
struct InputForm {
  SideScheme activation;
  bool integer_product;
  std::optional<RowQuantizer> quantizer;
};

/// The forms in which the weights of one linear layer read their input of K columns.
class InputForms {
 public:
  explicit InputForms(std::int64_t columns) : columns_(columns) {}

  /// The index of the form that weights of `scheme` read; added if it is new.
  std::size_t index_of(const LinearScheme& scheme);
  const std::vector<InputForm>& all() const { return forms_; }

  /// Memory for `rows` rows of every form, with masks if `for_backward`; dense forms have type
  /// `compute`.
  LinearInput take(Arena& arena, Tensor x, std::int64_t rows, bool for_backward,
                   DType compute) const;
  /// Fills the forms of `input` from `input.x`, which is first set where it is made of others.
  /// Where codes are all that is read and `keep_x` is not asked for, it may be left as scratch.
  void fill(Backend& backend, const LinearInput& input, const MadeOf& made_of, bool keep_x) const;
  /// Whether codes in one form are all that the products read.
  bool only_codes() const { return forms_.size() == 1 && forms_[0].integer_product; }
  /// Whether some product reads `input.x` itself.
  bool read_dense_input() const;
  /// Whether some form quantizes.
  bool quantize() const;

 private:
  std::int64_t columns_;
  std::vector<InputForm> forms_;
};

/// Memory for quantized rows of codes of `bits`, and the first `count` of them.
QuantizedRows take_quantized_rows(Arena& arena, std::int64_t rows, std::int64_t columns,
                                  bool with_mask, int bits = 8);
QuantizedRows first_rows(const QuantizedRows& rows, std::int64_t count);

/// Squared error and masked share of quantized values; see Backend::quantization_error.
struct QuantizationError {
  double masked = 0.0;
  double squared_error = 0.0;
  double squared_value = 0.0;
  double count = 0.0;

  double masked_fraction() const { return count > 0 ? masked / count : 0.0; }
  /// sum (Q(z) - z)^2 / sum z^2: for Gaussian values the grid's MSE.
  double relative_error() const { return squared_value > 0 ? squared_error / squared_value : 0.0; }
  QuantizationError& operator+=(const QuantizationError& more);
};

/// Of x and its `rows`; `sums` is f64 [3] scratch. Waits for the device.
QuantizationError measured_error(Backend& backend, Tensor sums, Tensor x, const QuantizedRows& rows,
                                 const RowQuantizer& quantizer);

/// Of all forms of an input whose `x` still holds its values.
QuantizationError input_error(Backend& backend, const InputForms& forms, const LinearInput& input,
                              Tensor sums);

}  // namespace quest
