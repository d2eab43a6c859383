// The method in double: plain sums, and a Hadamard matrix from the definition of its entries.
#include "closed_form.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/rng.h"

namespace quest {

Matrix Matrix::rows_slice(std::int64_t begin, std::int64_t end) const {
  Matrix slice(end - begin, cols);
  std::copy_n(values.begin() + begin * cols, slice.values.size(), slice.values.begin());
  return slice;
}

Matrix Matrix::columns(std::int64_t begin, std::int64_t end) const {
  Matrix slice(rows, end - begin);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = begin; c < end; ++c) slice(r, c - begin) = (*this)(r, c);
  }
  return slice;
}

Matrix normal_matrix(std::int64_t rows, std::int64_t cols, std::uint32_t stream) {
  Rng rng(17, RngPurpose::kTest, stream);
  Matrix m(rows, cols);
  for (double& value : m.values) value = static_cast<float>(rng.normal());
  return m;
}

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.cols);
  for (std::int64_t i = 0; i < a.rows; ++i) {
    for (std::int64_t k = 0; k < a.cols; ++k) {
      for (std::int64_t j = 0; j < b.cols; ++j) c(i, j) += a(i, k) * b(k, j);
    }
  }
  return c;
}

Matrix product_tn(const Matrix& a, const Matrix& b) {
  Matrix c(a.cols, b.cols);
  for (std::int64_t k = 0; k < a.rows; ++k) {
    for (std::int64_t i = 0; i < a.cols; ++i) {
      for (std::int64_t j = 0; j < b.cols; ++j) c(i, j) += a(k, i) * b(k, j);
    }
  }
  return c;
}

Matrix product_nt(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.rows);
  for (std::int64_t i = 0; i < a.rows; ++i) {
    for (std::int64_t j = 0; j < b.rows; ++j) {
      for (std::int64_t k = 0; k < a.cols; ++k) c(i, j) += a(i, k) * b(j, k);
    }
  }
  return c;
}

Matrix elementwise(const Matrix& a, const Matrix& b) {
  Matrix c = a;
  for (std::size_t i = 0; i < c.values.size(); ++i) c.values[i] *= b.values[i];
  return c;
}

double dot(const Matrix& a, const Matrix& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.values.size(); ++i) sum += a.values[i] * b.values[i];
  return sum;
}

double relative_error(const Matrix& a, const Matrix& b) {
  Matrix difference = a;
  for (std::size_t i = 0; i < a.values.size(); ++i) difference.values[i] -= b.values[i];
  const double size = dot(b, b);
  return std::sqrt(dot(difference, difference) / (size > 0 ? size : 1.0));
}

Matrix rotate(const Matrix& v, std::int64_t block) {
  Matrix z(v.rows, v.cols);
  const double scale = 1.0 / std::sqrt(static_cast<double>(block));
  for (std::int64_t r = 0; r < v.rows; ++r) {
    for (std::int64_t c = 0; c < v.cols; ++c) {
      const std::int64_t first = c - c % block;
      for (std::int64_t i = 0; i < block; ++i) {
        const bool odd = std::popcount(static_cast<std::uint64_t>(i & (c - first))) % 2 == 1;
        z(r, c) += (odd ? -scale : scale) * v(r, first + i);
      }
    }
  }
  return z;
}

std::int64_t rotation_block(std::int64_t columns) {
  std::int64_t block = 1;
  while (block < 128 && columns % (2 * block) == 0) block *= 2;
  return block;
}

double published_alpha(int bits) {
  constexpr double kAlpha[] = {0.7978845587140913, 1.4935346200015913, 2.051068354131873,
                               2.513930578568423,  2.9160938834961225, 3.276597282593217,
                               3.6010497188221655, 3.884938678807525};
  return kAlpha[bits - 1];
}

RoundedRows round_rows(const Matrix& v, const SideForm& side, std::int64_t block) {
  RoundedRows out{rotate(v, block), v, v, v, {}, 1.0};
  const double half = std::ldexp(1.0, side.bits - 1);  // codes are -half .. half - 1
  const double alpha = published_alpha(side.bits);
  for (std::int64_t r = 0; r < v.rows; ++r) {
    double squares = 0.0;
    for (std::int64_t c = 0; c < v.cols; ++c) squares += v(r, c) * v(r, c);
    const double rms = std::sqrt(squares / static_cast<double>(v.cols));
    const double step = 2.0 * (alpha * rms + 1e-8) / (2.0 * half - 1.0);
    double bound = alpha * rms * 2.0 * half / (2.0 * half - 1.0);
    if (side.mask == MaskRule::kClip) bound = side.kappa * (alpha * rms + 1e-8);
    out.steps.push_back(step);
    for (std::int64_t c = 0; c < v.cols; ++c) {
      const double position = out.z(r, c) / step;
      const double code = std::max(-half, std::min(half - 1.0, std::floor(position)));
      out.codes(r, c) = code;
      out.levels(r, c) = (code + 0.5) * step;
      out.mask(r, c) = side.mask == MaskRule::kSte || std::abs(out.z(r, c)) <= bound ? 1.0 : 0.0;
      const double border = std::clamp(std::round(position), 1.0 - half, half - 1.0);
      out.margin = std::min(out.margin, std::abs(position - border));
      if (side.mask != MaskRule::kSte) {
        out.margin = std::min(out.margin, std::abs(std::abs(position) - bound / step));
      }
    }
  }
  return out;
}

namespace {

// What a side contributes to the product, in the domain of the layer's input.
Matrix seen_values(const Matrix& v, const SideForm& side, std::int64_t block) {
  return side.bits == 16 ? v : rotate(round_rows(v, side, block).levels, block);
}

Matrix side_gradient(const Matrix& gradient, const Matrix& v, const SideForm& side,
                     std::int64_t block) {
  if (side.bits == 16) return gradient;
  return rotate(elementwise(round_rows(v, side, block).mask, rotate(gradient, block)), block);
}

}  // namespace

LayerResult closed_form_layer(const Matrix& x, const Matrix& w, const Matrix& e,
                              const SideForm& x_side, const SideForm& w_side, std::int64_t block) {
  const Matrix x_hat = seen_values(x, x_side, block);
  const Matrix w_hat = seen_values(w, w_side, block);
  return {product_nt(x_hat, w_hat), side_gradient(product(e, w_hat), x, x_side, block),
          side_gradient(product_tn(e, x_hat), w, w_side, block)};
}

}  // namespace quest
