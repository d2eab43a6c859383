// QuantLinear: the linear layers that read one input, trained under quantization schemes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/arena.h"
#include "backend/backend.h"
#include "model/config.h"
#include "model/linear_input.h"

namespace quest {

/// A weight of the model with everything an optimizer or a file needs to know of it. `gradient` is
/// null in a model that is not trained.
struct Parameter {
  std::string name;  ///< as in Hugging Face checkpoints
  Tensor value;      ///< f32
  Tensor gradient;   ///< f32, same shape
  bool decayed;      ///< weight decay applies: the matrices inside the blocks only
  double init_std;   ///< standard deviation of the initial normal values; 0: all ones
};

/// How the gradients of a micro-batch are made.
struct GradientOptions {
  /// Where a product is one of integers, so are those of its gradients if there are keys; without
  /// (null) they are float products.
  RoundingKeys* rounding = nullptr;
  /// Parameter gradients are set by a step's first micro-batch, and added to by the others.
  Write weights = Write::kAdd;
};

/// y = x W^T for the joined rows W [N, K] of one or more named parts that read the same x.
///
/// Consecutive parts of one scheme are one product. Where both sides are quantized the product is
/// one of integers on rotated codes; where one side is, its values are rotated back and the product
/// is dense in the compute type; where none is, it is dense. All gradients follow method section 2.
class QuantLinear {
 public:
  /// `part_schemes` has one scheme a part. `weight` is f32 [N, K], `gradient` too where `trains`;
  /// both outlive this. What is derived from the weights is laid in `prepared`.
  QuantLinear(const LinearLayout& layout, const std::vector<LinearScheme>& part_schemes,
              DType compute, bool trains, Tensor weight, Tensor gradient, Arena& prepared);

  /// Quantizes (or casts) the weights: once after every change of them.
  void prepare_weights(Backend& backend) const;

  /// Lays out the input's forms for `rows` rows, with masks if `for_backward`. `x` must then keep
  /// its values until backward when `reads_dense_input()`; otherwise it may be scratch.
  LinearInput take_input(Arena& arena, Tensor x, std::int64_t rows, bool for_backward) const;
  bool reads_dense_input() const;
  /// Whether `backward` needs `d_z`.
  bool quantizes_input() const;

  /// Fills the forms of `input` (InputForms::fill), then y [R, N] (= or +=) x W^T.
  void forward(Backend& backend, Tensor y, const LinearInput& input, Write write,
               const MadeOf& made_of = {}, bool keep_x = false) const;
  /// The second half of it, where the forms are filled.
  void multiply(Backend& backend, Tensor y, const LinearInput& input, Write write) const;
  /// As `multiply` with Write::kSet, then the rotary embedding of y, whose parts are whole heads.
  void multiply_rope(Backend& backend, Tensor y, const LinearInput& input,
                     const Rotary& rotary) const;
  const InputForms& forms() const { return forms_; }

  /// d_x float [R, K] = the input's gradient, and the weight's gradient (= or +=) its share in the
  /// domain in which it adds up; `finish_gradient` ends it. `d_z` is scratch shaped as d_x and of
  /// the compute type; it may not alias d_x.
  void backward(Backend& backend, Tensor d_x, Tensor d_y, const LinearInput& input, Tensor d_z,
                const GradientOptions& options) const;
  /// Masks and rotates the summed weight gradient: once a step, after the last micro-batch.
  void finish_gradient(Backend& backend) const { finish(backend, gradient_, Write::kSet); }
  /// The same, but adds what becomes of it to `sum`, f32 [N, K]; the gradient holds no result then.
  void add_finished_gradient(Backend& backend, Tensor sum) const {
    finish(backend, sum, Write::kAdd);
  }
  Tensor gradient() const { return gradient_; }

  /// Of the prepared weights, and of an input whose `x` still holds its values; `sums` is f64 [3]
  /// scratch. Sides that are not quantized count nothing.
  QuantizationError weight_error(Backend& backend, Tensor sums) const;
  QuantizationError input_error(Backend& backend, const LinearInput& input, Tensor sums) const;

  /// Visits the parts as parameters.
  template <typename Visitor>
  void for_each_parameter(bool decayed, Visitor visit) const {
    std::int64_t begin = 0;
    for (const LinearPart& part : layout_.parts) {
      const std::int64_t end = begin + part.rows;
      visit(Parameter{part.tensor_name, weight_.rows_slice(begin, end),
                      gradient_ ? gradient_.rows_slice(begin, end) : Tensor(), decayed,
                      layout_.init_std});
      begin = end;
    }
  }
  /// How many products of codes `forward` makes.
  std::int64_t integer_products() const;
  std::int64_t outputs() const { return weight_.rows(); }
  std::int64_t columns() const { return weight_.cols(); }

 private:
  // Consecutive rows of one scheme.
  struct Segment {
    LinearScheme scheme;
    std::int64_t begin;
    std::int64_t end;
    std::size_t form;
    std::optional<RowQuantizer> quantizer;
    QuantizedRows rows;  // prepared weights, if quantized
    Tensor dense;        // prepared weights of a dense product
  };

  void multiply_segment(Backend& backend, const Segment& segment, Tensor y,
                        const LinearInput& input, Write write) const;
  void take_prepared(Segment& segment, Arena& prepared) const;
  void integer_gradients(Backend& backend, const Segment& segment, Tensor target, Tensor d_out,
                         const QuantizedRows& x, const GradientOptions& options, Write write) const;
  Tensor gradient_of(const Segment& segment) const;
  void finish(Backend& backend, Tensor out, Write write) const;

  LinearLayout layout_;
  DType compute_;
  bool trains_;
  Tensor weight_;
  Tensor gradient_;
  InputForms forms_;
  std::vector<Segment> segments_;
};

}  // namespace quest
