// The method's closed forms in double, written from its text alone: what layers are compared with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quest {

/// A dense row-major matrix of doubles.
struct Matrix {
  Matrix() = default;
  Matrix(std::int64_t row_count, std::int64_t column_count)
      : rows(row_count),
        cols(column_count),
        values(static_cast<std::size_t>(row_count * column_count)) {}

  double& operator()(std::int64_t r, std::int64_t c) {
    return values[static_cast<std::size_t>(r * cols + c)];
  }
  double operator()(std::int64_t r, std::int64_t c) const {
    return values[static_cast<std::size_t>(r * cols + c)];
  }
  Matrix rows_slice(std::int64_t begin, std::int64_t end) const;
  Matrix columns(std::int64_t begin, std::int64_t end) const;

  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<double> values;
};

/// Standard normal values that float holds exactly; equal for equal `stream`.
Matrix normal_matrix(std::int64_t rows, std::int64_t cols, std::uint32_t stream);

/// a b and a^T b and a b^T, by plain sums.
Matrix product(const Matrix& a, const Matrix& b);
Matrix product_tn(const Matrix& a, const Matrix& b);
Matrix product_nt(const Matrix& a, const Matrix& b);
Matrix elementwise(const Matrix& a, const Matrix& b);
double dot(const Matrix& a, const Matrix& b);
/// || a - b || / || b ||
double relative_error(const Matrix& a, const Matrix& b);

/// v H, H block-diagonal: entry (i, j) of a block is (-1)^popcount(i & j) / sqrt(block).
Matrix rotate(const Matrix& v, std::int64_t block);
/// 128, or the largest power of two that divides `columns` when 128 does not.
std::int64_t rotation_block(std::int64_t columns);

/// Which elements of a side let the gradient pass.
enum class MaskRule : std::uint8_t { kTrust, kClip, kSte };

/// One side of a layer; 16 bits: not quantized.
struct SideForm {
  int bits = 16;
  MaskRule mask = MaskRule::kTrust;
  double kappa = 1.0;  ///< of kClip
};

/// A side's rows after section 1 of the method.
struct RoundedRows {
  Matrix z;                   ///< v H
  Matrix codes;               ///< q
  Matrix levels;              ///< (q + 1/2) step, in the rotated domain
  Matrix mask;                ///< 1 where the gradient passes
  std::vector<double> steps;  ///< one a row
  double margin = 0.0;  ///< least distance of a value from a border of cells or mask, in steps
};
RoundedRows round_rows(const Matrix& v, const SideForm& side, std::int64_t block);

/// The published clip point of N(0, 1).
double published_alpha(int bits);

/// A linear layer's output and gradients.
struct LayerResult {
  Matrix y;
  Matrix d_x;
  Matrix d_w;
};

/// Sections 1, 2 and 5: y = x^ w^T, d_x = (mask_x * (E w^ H)) H and the same for d_w, where a side
/// that is not quantized stands for itself and gets its plain gradient. `block` 1: no rotation.
LayerResult closed_form_layer(const Matrix& x, const Matrix& w, const Matrix& e,
                              const SideForm& x_side, const SideForm& w_side, std::int64_t block);

}  // namespace quest
