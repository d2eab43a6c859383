// PackedLinear: the linear layers that read one input, run from packed weights.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "model/linear_input.h"

namespace quest {

/// The weights of one named part as a packed file holds them.
struct PackedPart {
  LinearScheme scheme;
  PackedRows rows;         ///< where scheme.weight is quantized
  Tensor dense;            ///< else: float [N, K]
  std::int64_t block = 1;  ///< Hadamard block of the rows

  std::int64_t outputs() const { return rows.bits > 0 ? rows.codes.rows() : dense.rows(); }
};

/// y = x W^T for the joined rows of the parts, with the numbers of QuantLinear's forward pass. Owns
/// no weights, and has no backward.
class PackedLinear {
 public:
  /// The parts' memory outlives this; packed parts that lie one after the other there are
  /// multiplied as one. Dense forms of the input have type `compute`.
  PackedLinear(std::vector<PackedPart> parts, std::int64_t columns, DType compute);

  /// As QuantLinear's.
  LinearInput take_input(Arena& arena, Tensor x, std::int64_t rows, bool for_backward) const;
  bool reads_dense_input() const { return forms_.read_dense_input(); }
  bool quantizes_input() const { return forms_.quantize(); }

  /// Fills the forms of `input` (InputForms::fill), then y [R, N] (= or +=) x W^T. Without
  /// `keep_x` the forms may be left as scratch.
  void forward(Backend& backend, Tensor y, const LinearInput& input, Write write,
               const MadeOf& made_of = {}, bool keep_x = false) const;
  /// The second half of it, where the forms are filled.
  void multiply(Backend& backend, Tensor y, const LinearInput& input, Write write) const;
  /// As QuantLinear's, but as two kernels: packed products have no rotary end.
  void multiply_rope(Backend& backend, Tensor y, const LinearInput& input,
                     const Rotary& rotary) const;
  const InputForms& forms() const { return forms_; }

  /// Weights that were not packed from anything at hand have no error to measure.
  QuantizationError weight_error(Backend&, Tensor) const { return {}; }
  QuantizationError input_error(Backend& backend, const LinearInput& input, Tensor sums) const {
    return quest::input_error(backend, forms_, input, sums);
  }

  std::int64_t columns() const { return columns_; }

  /// Says which linear layer a token passes through after this one.
  void is_followed_by(const PackedLinear& next);

 private:
  struct Segment {
    PackedPart part;
    std::int64_t begin;
    std::size_t form;
  };
  std::int64_t columns_;
  DType compute_;
  InputForms forms_;
  std::vector<Segment> segments_;
};

}  // namespace quest
