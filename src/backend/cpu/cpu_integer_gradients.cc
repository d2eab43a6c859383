// CpuBackend: gradients of the integer product as integer products of their own, after stochastic
// rounding of d_y.
#include <algorithm>
#include <cassert>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/rounding_kernels.h"

namespace quest {
namespace {

using Slot = Workspace::Slot;

constexpr std::int64_t kElementsPerThread = 1 << 15;
/// Multiplications below which a thread of its own does not pay.
constexpr std::int64_t kProductsPerThread = 1 << 21;
/// Columns that a pass over the rows of a block takes at a time: they stay in the second-level
/// cache between the search for the largest and the rounding.
constexpr std::int64_t kStripColumns = 128;
/// Rows that are rounded before they are transposed.
constexpr std::int64_t kStripRows = 64;

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
std::int64_t round_up(std::int64_t value, std::int64_t to) { return divide_up(value, to) * to; }

FloatRow float_row(Tensor x, std::int64_t r, std::int64_t c) {
  if (x.dtype == DType::kBF16) return {x.row<BFloat16>(r) + c, true};
  return {x.row<float>(r) + c, false};
}

void transpose(std::int8_t* out, std::int64_t out_stride, const std::int8_t* in,
               std::int64_t in_stride, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) out[c * out_stride + r] = in[r * in_stride + c];
  }
}

/// Rows of rounded integers, packed as the first operand of a product.
struct RoundedRows {
  std::uint8_t* rows;
  std::int64_t row_bytes;
  float* scales;       ///< one a row
  std::int32_t* sums;  ///< one a row
};

class IntegerGradients {
 public:
  IntegerGradients(Workspace& workspace, int threads, const QuantKernels& kernels)
      : workspace_(workspace), threads_(threads), kernels_(kernels) {}

  void grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w, const RoundingKey& key,
                  Write write) const {
    multiply(d_z, round_rows(d_y, w.steps.as<float>(), key), w.codes, write);
  }

  void grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x, const RoundingKey& key) const {
    for (std::int64_t first = 0; first < d_y.rows(); first += kRoundedRows) {
      const std::int64_t last = std::min(first + kRoundedRows, d_y.rows());
      multiply(d_z, round_columns(d_y, first, last, x.steps.as<float>(), key),
               x.codes.rows_slice(first, last), Write::kAdd);
    }
  }

 private:
  RoundedRows take_rows(std::int64_t rows, std::int64_t columns) const {
    const ProductKernels& product = kernels_.product;
    const std::int64_t row_bytes = divide_up(columns, product.group_values) * product.group_bytes;
    std::byte* const memory =
        workspace_.bytes(Slot::kOperandA, static_cast<std::size_t>(rows * (row_bytes + 8)));
    RoundedRows to{};
    to.scales = reinterpret_cast<float*>(memory);
    to.sums = reinterpret_cast<std::int32_t*>(to.scales + rows);
    to.rows = reinterpret_cast<std::uint8_t*>(to.sums + rows);
    to.row_bytes = row_bytes;
    return to;
  }

  /// The half steps of rows as column factors.
  const float* half_steps(const float* steps, std::int64_t count) const {
    auto* const factors =
        workspace_.tensor(Slot::kRows, {round_up(count, 32)}, DType::kF32).as<float>();
    std::fill_n(factors, round_up(count, 32), 0.0f);
    for (std::int64_t j = 0; j < count; ++j) factors[paired_place(j)] = 0.5f * steps[j];
    return factors;
  }

  RoundedRows round_rows(Tensor d_y, const float* steps, const RoundingKey& key) const {
    const std::int64_t n = d_y.cols();
    const RoundedRows to = take_rows(d_y.rows(), n);
    const float* const factors = half_steps(steps, n);
    const std::int64_t stride = round_up(n, 64);
    auto* const scratch = reinterpret_cast<std::int8_t*>(
        workspace_.bytes(Slot::kSums, static_cast<std::size_t>(threads_ * stride)));
    const std::int64_t grain = divide_up(kElementsPerThread, n);
    parallel_for(
        threads_, d_y.rows(), grain, [&](std::int64_t begin, std::int64_t end, int thread) {
          std::int8_t* const g = scratch + thread * stride;
          for (std::int64_t m = begin; m < end; ++m) {
            GradientRow row{float_row(d_y, m, 0), n, 0.0f, factors, true};
            const LineRounding line = LineRounding::make(kernels_.rounding->largest_of_row(row));
            row.row_factor = line.to_fixed;
            to.scales[m] = line.scale;
            to.sums[m] = kernels_.rounding->round(g, row, key.words.data(), m, 0);
            kernels_.product.pack_integers(to.rows + m * to.row_bytes, g, n);
          }
        });
    return to;
  }

  /// The transpose of rows [first, last) of d_y.
  RoundedRows round_columns(Tensor d_y, std::int64_t first, std::int64_t last, const float* steps,
                            const RoundingKey& key) const {
    const std::int64_t n = d_y.cols();
    const std::int64_t rows = last - first;
    const RoundedRows to = take_rows(n, rows);
    // A thread's largest values and factors, rounded rows, and their transpose.
    const std::int64_t bytes = kStripColumns * (8 + kStripRows + round_up(rows, kStripRows));
    std::byte* const scratch =
        workspace_.bytes(Slot::kSums, static_cast<std::size_t>(threads_ * bytes));
    const std::int64_t grain = divide_up(kElementsPerThread, kStripColumns * rows);
    parallel_for(threads_, divide_up(n, kStripColumns), grain,
                 [&](std::int64_t begin, std::int64_t end, int thread) {
                   for (std::int64_t s = begin; s < end; ++s) {
                     round_strip(to, d_y, first, last, s * kStripColumns, steps, key,
                                 scratch + thread * bytes);
                   }
                 });
    return to;
  }

  void round_strip(const RoundedRows& to, Tensor d_y, std::int64_t first, std::int64_t last,
                   std::int64_t column, const float* steps, const RoundingKey& key,
                   std::byte* scratch) const {
    const std::int64_t count = std::min(kStripColumns, d_y.cols() - column);
    const std::int64_t rows = last - first;
    auto* const largest = reinterpret_cast<float*>(scratch);
    float* const to_fixed = largest + kStripColumns;
    auto* const g = reinterpret_cast<std::int8_t*>(to_fixed + kStripColumns);
    std::int8_t* const transposed = g + kStripColumns * kStripRows;
    const auto row_of = [&](std::int64_t m) {
      return GradientRow{float_row(d_y, m, column), count, 0.5f * steps[m], to_fixed, false};
    };
    std::fill_n(largest, 2 * kStripColumns, 0.0f);
    for (std::int64_t m = first; m < last; ++m) {
      kernels_.rounding->largest_of_columns(largest, row_of(m));
    }
    for (std::int64_t j = 0; j < count; ++j) {
      const LineRounding line = LineRounding::make(largest[paired_place(j)]);
      to_fixed[paired_place(j)] = line.to_fixed;
      to.scales[column + j] = line.scale;
    }
    for (std::int64_t m = first; m < last; m += kStripRows) {
      const std::int64_t part = std::min(kStripRows, last - m);
      for (std::int64_t i = 0; i < part; ++i) {
        kernels_.rounding->round(g + i * kStripColumns, row_of(m + i), key.words.data(), m + i,
                                 column);
      }
      transpose(transposed + (m - first), rows, g, kStripColumns, part, count);
    }
    for (std::int64_t j = 0; j < count; ++j) {
      const std::int8_t* const line = transposed + j * rows;
      std::int32_t sum = 0;
      for (std::int64_t m = 0; m < rows; ++m) sum += line[m];
      to.sums[column + j] = sum;
      kernels_.product.pack_integers(to.rows + (column + j) * to.row_bytes, line, rows);
    }
  }

  /// out[i, k] (= or +=) scale_i * sum_n g_in (2 codes_nk + 1).
  void multiply(Tensor out, const RoundedRows& g, Tensor codes, Write write) const {
    const ProductKernels& product = kernels_.product;
    const std::int64_t summed = codes.rows();
    assert(summed <= 32768);
    const std::int64_t width = product.panel_columns;
    const std::int64_t panels = divide_up(out.cols(), width);
    const std::int64_t groups = divide_up(summed, product.group_values);
    const std::int64_t panel_bytes = groups * width * product.group_bytes;
    // The sums of g stand for all that the codes' halves add, so the columns add nothing.
    const Tensor columns = workspace_.tensor(Slot::kRows, {2 * width}, DType::kF32);
    std::fill_n(columns.as<float>(), width, 0.5f);
    std::fill_n(columns.as<float>() + width, width, 0.0f);
    const auto* const biases = reinterpret_cast<const std::int32_t*>(columns.as<float>() + width);
    const std::uint8_t* const packed = pack_panels(codes, panel_bytes);

    const std::int64_t tiles = divide_up(out.rows(), product.tile_rows);
    const std::int64_t block_tiles =
        std::max<std::int64_t>(1, product.row_block_bytes / (g.row_bytes * product.tile_rows));
    const std::int64_t grain =
        divide_up(kProductsPerThread, product.tile_rows * out.cols() * summed);
    parallel_for(threads_, tiles, grain, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t block = begin; block < end; block += block_tiles) {
        const std::int64_t i = block * product.tile_rows;
        const std::int64_t last =
            std::min(std::min(block + block_tiles, end) * product.tile_rows, out.rows());
        for (std::int64_t p = 0; p < panels; ++p) {
          ProductStrip strip{};
          strip.x = g.rows + i * g.row_bytes;
          strip.x_row_bytes = g.row_bytes;
          strip.panel = packed + p * panel_bytes;
          strip.groups = groups;
          strip.rows = static_cast<std::int32_t>(last - i);
          strip.columns = static_cast<std::int32_t>(std::min(width, out.cols() - p * width));
          strip.x_steps = g.scales + i;
          strip.x_sums = g.sums + i;
          strip.w_scales = columns.as<float>();
          strip.w_biases = biases;
          strip.y = float_row(out, i, p * width);
          strip.y_stride = out.row_stride;
          strip.add = write == Write::kAdd;
          product.strip(strip);
        }
      }
    });
  }

  /// Columns of codes as the second operand of a product.
  const std::uint8_t* pack_panels(Tensor codes, std::int64_t panel_bytes) const {
    const std::int64_t width = kernels_.product.panel_columns;
    const std::int64_t panels = divide_up(codes.cols(), width);
    auto* const packed = reinterpret_cast<std::uint8_t*>(
        workspace_.bytes(Slot::kOperandB, static_cast<std::size_t>(panels * panel_bytes)));
    const std::int64_t bytes = width * codes.rows();
    auto* const scratch = reinterpret_cast<std::int8_t*>(
        workspace_.bytes(Slot::kSums, static_cast<std::size_t>(threads_ * bytes)));
    const std::int64_t grain = divide_up(1 << 18, bytes);
    parallel_for(threads_, panels, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
      std::int8_t* const rows = scratch + thread * bytes;
      for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t count = std::min(width, codes.cols() - p * width);
        transpose(rows, codes.rows(), codes.row<std::int8_t>(0) + p * width, codes.row_stride,
                  codes.rows(), count);
        kernels_.product.pack_panel(packed + p * panel_bytes, rows, codes.rows(), count,
                                    codes.rows());
      }
    });
    return packed;
  }

  Workspace& workspace_;
  int threads_;
  const QuantKernels& kernels_;
};

}  // namespace

void CpuBackend::integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                           const RoundingKey& key, Write write) {
  assert(d_y.cols() == w.codes.rows() && d_z.cols() == w.codes.cols());
  assert(d_z.rows() == d_y.rows());
  IntegerGradients(workspace_, threads_, quant_kernels(isa_)).grad_input(d_z, d_y, w, key, write);
}

void CpuBackend::integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                            const RoundingKey& key) {
  assert(d_y.rows() == x.codes.rows() && d_z.rows() == d_y.cols());
  assert(d_z.cols() == x.codes.cols());
  IntegerGradients(workspace_, threads_, quant_kernels(isa_)).grad_weight(d_z, d_y, x, key);
}

}  // namespace quest
