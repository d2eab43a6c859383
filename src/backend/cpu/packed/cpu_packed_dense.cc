// CpuBackend: products of float rows with packed weights, and the packed embedding.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/packed/packed_dots.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/rows/float_rows.h"

namespace quest {
namespace {

using Slot = Workspace::Slot;

/// Rows of w that become dense at a time.
constexpr std::int64_t kDenseRows = 256;

FloatRow float_row(Tensor x, std::int64_t r) {
  const Floats row = row_of(x, r);
  return {row.data, row.is_bf16};
}

constexpr int kMostDigits = 3;

/// Signed bytes that an input of w becomes.
int input_digits(const PackedRows& w) { return w.approximate ? 2 : kMostDigits; }

/// A row of floats as whole numbers of a few signed bytes, so that its products with packed rows
/// are integer dot products: v = unit * (65536 d2 + 256 d1 + d0).
struct FixedPointRow {
  double unit = 0;       ///< NaN when the row is not finite
  std::int64_t sum = 0;  ///< of all whole numbers

  FixedPointRow() = default;
  /// digits [count][columns] = the bytes of `row`, lowest digit first.
  FixedPointRow(std::int8_t* digits, int count, const float* row, std::int64_t columns) {
    const double most = count == 2 ? 127 * 256 + 127 : 127 * 65536 + 127 * 256 + 127;
    float largest = 0;
    bool finite = true;
    for (std::int64_t k = 0; k < columns; ++k) {
      finite = finite && std::isfinite(row[k]);
      largest = std::max(largest, std::abs(row[k]));
    }
    unit = finite ? static_cast<double>(largest) / most : std::numeric_limits<double>::quiet_NaN();
    const double per_unit = finite && largest > 0 ? 1 / unit : 0.0;
    for (std::int64_t k = 0; k < columns; ++k) {
      auto value = per_unit == 0 ? 0 : static_cast<std::int32_t>(std::lrint(row[k] * per_unit));
      sum += value;
      for (int digit = 0; digit < count; ++digit) {
        const auto low = static_cast<std::int8_t>(value & 0xff);
        digits[digit * columns + k] = low;
        value = (value - low) >> 8;
      }
    }
  }

  /// y[c] = w_steps[c] sum over k of v_k (q_k + 1/2), given the dot products of the digits with
  /// u = q + 2^(bits-1), null where there is no digit.
  void finish(const PackedKernels& kernels, float* y, std::int64_t count,
              const std::int32_t* const (&products)[kMostDigits], const float* w_steps,
              int bits) const {
    const double offset = (0.5 - static_cast<double>(1 << (bits - 1))) * static_cast<double>(sum);
    kernels.finish_digits(
        {y, count, {products[0], products[1], products[2]}, unit, offset, w_steps});
  }
};

}  // namespace

void CpuBackend::packed_dense_matmul(Tensor y, Tensor x, const PackedRows& w, std::int64_t block,
                                     Write write) {
  // Inputs are rounded beside approximate weights, however many there are, so that what a row gives
  // does not depend on the others.
  if (x.rows() <= kDotRows || w.approximate) {
    for (std::int64_t i = 0; i < x.rows(); i += kDotRows) {
      const std::int64_t end = std::min(i + kDotRows, x.rows());
      packed_dense_matmul_of_few(y.rows_slice(i, end), x.rows_slice(i, end), w, block, write);
    }
    return;
  }
  // A part of w at a time becomes dense.
  const QuantKernels& quant = quant_kernels(isa_);
  const std::int64_t n = w.codes.rows();
  const std::int64_t k = w.columns;
  const std::int64_t stride = scratch_columns(k);
  const std::int64_t thread_bytes = 5 * stride;  // a row of floats and one of codes
  std::byte* const memory =
      workspace_.bytes(Slot::kPackedSums, static_cast<std::size_t>(threads_ * thread_bytes));
  const Tensor dense = workspace_.tensor(Slot::kPackedRows, {std::min(n, kDenseRows), k}, x.dtype);
  for (std::int64_t j = 0; j < n; j += kDenseRows) {
    const std::int64_t count = std::min(kDenseRows, n - j);
    parallel_for(
        threads_, count, row_grain(k), [&](std::int64_t begin, std::int64_t end, int thread) {
          auto* const scratch = reinterpret_cast<float*>(memory + thread * thread_bytes);
          auto* const codes = reinterpret_cast<std::int8_t*>(scratch + stride);
          for (std::int64_t r = begin; r < end; ++r) {
            packed_kernels(isa_).unpack_row(codes, w.codes.row<std::uint8_t>(j + r), k, w.bits);
            quant.dequantize_row({float_row(dense, r), false, scratch}, codes,
                                 w.steps.as<float>()[j + r], k, block);
          }
        });
    matmul(y.columns(j, j + count), x, dense.rows_slice(0, count), write);
  }
}

// x (Zw H)^T = (x H) Zw^T: a few rows of x are rotated instead of w, and made whole numbers so that
// w can stay packed.
void CpuBackend::packed_dense_matmul_of_few(Tensor y, Tensor x, const PackedRows& w,
                                            std::int64_t block, Write write) {
  const int digits = input_digits(w);
  const PackedKernels& packed = packed_kernels(isa_);
  const std::int64_t m = x.rows();
  const std::int64_t k = w.columns;
  const std::int64_t row_bytes = round_up(packed.x_row_bytes(k, w.bits), 64);
  const Tensor z =
      workspace_.tensor(Slot::kPackedRows, {2 * threads_, scratch_columns(k)}, DType::kF32);
  const Tensor bytes = workspace_.tensor(Slot::kRows, {digits * threads_, k}, DType::kI8);
  auto* const x_rows = reinterpret_cast<std::uint8_t*>(
      workspace_.bytes(Slot::kPackedInputs, static_cast<std::size_t>(m * digits * row_bytes)));
  std::vector<FixedPointRow> rows(static_cast<std::size_t>(m));
  parallel_for(threads_, m, 2, [&](std::int64_t begin, std::int64_t end, int thread) {
    float* const rotated = z.row<float>(2 * thread);
    for (std::int64_t i = begin; i < end; ++i) {
      quant_kernels(isa_).rotate_row({{rotated, false}, false, z.row<float>(2 * thread + 1)},
                                     float_row(x, i), nullptr, k, block);
      std::int8_t* const own = bytes.row<std::int8_t>(digits * thread);
      rows[static_cast<std::size_t>(i)] = FixedPointRow(own, digits, rotated, k);
      for (int digit = 0; digit < digits; ++digit) {
        packed.pack_x(x_rows + (i * digits + digit) * row_bytes, own + digit * k, k, w.bits);
      }
    }
  });
  const ChosenDot chosen =
      choose_dot(isa_, dot_of_rows(w, x_rows, row_bytes, m * digits), workspace_);
  for_each_block_of_dots(chosen.kernel, chosen.dot, workspace_, threads_,
                         [&](std::int64_t j, std::int64_t count, const auto& sums_of) {
                           const bool in_place = y.dtype == DType::kF32 && write == Write::kSet;
                           float values[kMostDotColumns];
                           for (std::int64_t i = 0; i < m; ++i) {
                             const std::int32_t* const products[kMostDigits] = {
                                 sums_of(i * digits), sums_of(i * digits + 1),
                                 digits > 2 ? sums_of(i * digits + 2) : nullptr};
                             rows[static_cast<std::size_t>(i)].finish(
                                 packed, in_place ? y.row<float>(i) + j : values, count, products,
                                 w.steps.as<float>() + j, w.bits);
                             if (!in_place) put_row(y, i, j, values, count, write);
                           }
                         });
}

void CpuBackend::packed_embedding(Tensor x, Tensor tokens, const PackedRows& table,
                                  std::int64_t block) {
  const std::int64_t k = table.columns;
  const std::int64_t stride = scratch_columns(k);
  const std::int64_t thread_bytes = 5 * stride;
  std::byte* const memory =
      workspace_.bytes(Slot::kPackedSums, static_cast<std::size_t>(threads_ * thread_bytes));
  const std::int32_t* const token = tokens.as<std::int32_t>();
  parallel_for(threads_, x.rows(), row_grain(k),
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 auto* const scratch = reinterpret_cast<float*>(memory + thread * thread_bytes);
                 auto* const codes = reinterpret_cast<std::int8_t*>(scratch + stride);
                 for (std::int64_t r = begin; r < end; ++r) {
                   packed_kernels(isa_).unpack_row(codes, table.codes.row<std::uint8_t>(token[r]),
                                                   k, table.bits);
                   quant_kernels(isa_).dequantize_row({float_row(x, r), false, scratch}, codes,
                                                      table.steps.as<float>()[token[r]], k, block);
                 }
               });
}

}  // namespace quest
