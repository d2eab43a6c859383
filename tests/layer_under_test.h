// A QuantLinear with its memory, fed with matrices of doubles: for comparisons with closed forms.
#pragma once

#include <string>
#include <vector>

#include "backend/arena.h"
#include "closed_form.h"
#include "model/quant_linear.h"

namespace quest {

/// Rows of a joined layer and their scheme.
struct PartUnderTest {
  std::int64_t rows;
  std::string scheme;
};

/// What quantize_rows gives, as doubles.
struct QuantizedUnderTest {
  Matrix codes;
  Matrix mask;
  std::vector<double> steps;
};

Matrix to_matrix(Backend& backend, Tensor tensor);
void set(Backend& backend, Tensor tensor, const Matrix& values);

/// The codes, mask bits and steps of `x` under one side of a scheme.
QuantizedUnderTest quantize(Backend& backend, const Matrix& x, const SideScheme& side,
                            Transform transform);

/// One layer of the given parts; inputs and outputs are of the compute type.
class LayerUnderTest {
 public:
  LayerUnderTest(Backend& backend, const std::vector<PartUnderTest>& parts, const Matrix& weight,
                 DType compute = DType::kF32);

  void set_weight(const Matrix& weight) { set(backend_, weight_, weight); }
  void prepare() { linear_.prepare_weights(backend_); }
  /// y and d_x of one micro-batch; the weight gradient adds up in the layer.
  LayerResult pass(const Matrix& x, const Matrix& d_y);
  void zero_gradient() { backend_.zero(gradient_); }
  /// Ends the gradient's sum and returns it.
  Matrix finished_gradient();
  /// The sum so far, in whatever domain it is taken.
  Matrix unfinished_gradient() { return to_matrix(backend_, gradient_); }

  /// prepare, one pass and the finished gradient.
  LayerResult run(const Matrix& x, const Matrix& d_y);

 private:
  Backend& backend_;
  DType compute_;
  Arena memory_;
  Tensor weight_;
  Tensor gradient_;
  QuantLinear linear_;
};

}  // namespace quest
