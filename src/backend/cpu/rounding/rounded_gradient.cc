// Stochastic rounding of output gradients into the operands of products.
#include "backend/cpu/rounding/rounded_gradient.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/parallel.h"
#include "backend/cpu/tiles/tile_kernels.h"
#include "core/division.h"

namespace quest {
namespace {

using Slot = Workspace::Slot;

constexpr std::int64_t kElementsPerThread = 1 << 15;
/// Columns whose random bits are made together; threads share out the columns in such groups.
constexpr std::int64_t kGroupColumns = 256;
/// Rows that are rounded before they are transposed; a tile's.
constexpr std::int64_t kBlockRows = kTileDepthBytes;

FloatRow float_row(Tensor x, std::int64_t r, std::int64_t c) {
  if (x.dtype == DType::kBF16) return {x.row<BFloat16>(r) + c, true};
  return {x.row<float>(r) + c, false};
}

std::int64_t row_bytes(Tensor x) {
  return x.row_stride * static_cast<std::int64_t>(size_bytes(x.dtype));
}

RoundedGradient take(const RoundingContext& context, std::int64_t lines, std::int64_t summed) {
  const std::int64_t values = context.tiles
                                  ? round_up(lines, kTileLanes) * round_up(summed, kTileDepthBytes)
                                  : lines * summed;
  const std::int64_t padded = round_up(lines, kTileLanes);
  std::byte* const memory =
      context.workspace.bytes(Slot::kOperandA, static_cast<std::size_t>(values + 8 * padded));
  RoundedGradient to{};
  to.lines = lines;
  to.summed = summed;
  to.scales = reinterpret_cast<float*>(memory);
  to.sums = reinterpret_cast<std::int32_t*>(to.scales + padded);
  to.codes = reinterpret_cast<std::int8_t*>(to.sums + padded);
  return to;
}

/// Of an operand of tiles: bytes of 32 lines, and where a group of them lies.
std::int64_t bundle_bytes(const RoundedGradient& g) {
  return divide_up(g.summed, kTileDepthBytes) * kTileGroupBytes;
}
std::int8_t* tile_group(const RoundedGradient& g, std::int64_t bundle, std::int64_t group) {
  return g.codes + bundle * bundle_bytes(g) + group * kTileGroupBytes;
}

/// Thread-local memory for rounded rows of up to `columns` values.
class CodeScratch {
 public:
  CodeScratch(const RoundingContext& context, std::int64_t rows, std::int64_t columns)
      : stride_(round_up(columns, kTileDepthBytes)),
        bytes_(rows * stride_),
        memory_(reinterpret_cast<std::int8_t*>(context.workspace.bytes(
            Slot::kSums, static_cast<std::size_t>(context.threads * bytes_)))) {}

  std::int64_t stride() const { return stride_; }
  std::int8_t* of(int thread) const { return memory_ + thread * bytes_; }

 private:
  std::int64_t stride_;
  std::int64_t bytes_;
  std::int8_t* memory_;
};

/// Line `line` of an operand of tiles from its values, followed by zeros.
void put_line(const RoundedGradient& to, std::int64_t line, const std::int8_t* values) {
  std::int8_t* out = tile_group(to, line / kTileLanes, 0) + line % kTileLanes * kTileDepthBytes;
  for (std::int64_t n = 0; n < to.summed; n += kTileDepthBytes, out += kTileGroupBytes) {
    std::memcpy(out, values + n, kTileDepthBytes);
  }
}

/// The columns [begin, end) of the rounding of columns.
class ColumnRange {
 public:
  ColumnRange(const RoundingContext& context, Tensor d_y, std::int64_t first, const float* steps,
              std::int64_t begin, std::int64_t end, float* factors)
      : context_(context),
        d_y_(d_y),
        first_(first),
        steps_(steps),
        begin_(begin),
        count_(end - begin),
        factors_(factors) {}

  void round(const RoundedGradient& to, const RoundingKey& key, std::int8_t* scratch,
             std::int64_t stride) {
    find_scales(to);
    for (std::int64_t r = 0; r < to.summed; r += kBlockRows) {
      const std::int64_t rows = std::min(kBlockRows, to.summed - r);
      for (std::int64_t i = 0; i < rows; ++i) {
        context_.kernels.round(scratch + i * stride, row(r + i), key.words.data(), first_ + r + i,
                               begin_);
      }
      const RoundedBlock block{scratch, stride, rows, count_};
      if (context_.tiles) {
        context_.kernels.put_tiles(tile_group(to, begin_ / kTileLanes, r / kTileDepthBytes),
                                   bundle_bytes(to), to.sums + begin_, block);
      } else {
        context_.kernels.put_lines(to.codes + begin_ * to.summed + r, to.summed, to.sums + begin_,
                                   block);
      }
    }
  }

 private:
  GradientRow row(std::int64_t r) const {
    return {float_row(d_y_, first_ + r, begin_),
            count_,
            0.5f * steps_[first_ + r],
            factors_,
            false,
            row_bytes(d_y_)};
  }

  /// The factors become the largest values, then what makes integers of the columns.
  void find_scales(const RoundedGradient& to) const {
    std::fill_n(factors_, round_up(count_, 32), 0.0f);
    for (std::int64_t r = 0; r < to.summed; ++r) {
      context_.kernels.largest_of_columns(factors_, row(r));
    }
    for (std::int64_t j = 0; j < count_; ++j) {
      const LineRounding line = LineRounding::make(factors_[paired_place(j)]);
      factors_[paired_place(j)] = line.to_fixed;
      to.scales[begin_ + j] = line.scale;
      to.sums[begin_ + j] = 0;
    }
  }

  const RoundingContext& context_;
  Tensor d_y_;
  std::int64_t first_;
  const float* steps_;
  std::int64_t begin_, count_;
  float* factors_;  ///< [count rounded up to 32], in the order of paired_place
};

}  // namespace

RoundedGradient round_rows(const RoundingContext& context, Tensor d_y, const float* steps,
                           const RoundingKey& key) {
  const std::int64_t n = d_y.cols();
  const RoundedGradient to = take(context, d_y.rows(), n);
  auto* const factors =
      context.workspace.tensor(Slot::kRows, {round_up(n, 32)}, DType::kF32).as<float>();
  std::fill_n(factors, round_up(n, 32), 0.0f);
  for (std::int64_t j = 0; j < n; ++j) factors[paired_place(j)] = 0.5f * steps[j];
  const CodeScratch scratch(context, 1, n);
  parallel_for(context.threads, d_y.rows(), divide_up(kElementsPerThread, n),
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 std::memset(scratch.of(thread), 0, static_cast<std::size_t>(scratch.stride()));
                 for (std::int64_t m = begin; m < end; ++m) {
                   GradientRow row{float_row(d_y, m, 0), n, 0.0f, factors, true, row_bytes(d_y)};
                   const LineRounding line =
                       LineRounding::make(context.kernels.largest_of_row(row));
                   row.row_factor = line.to_fixed;
                   std::int8_t* const g = context.tiles ? scratch.of(thread) : to.codes + m * n;
                   to.scales[m] = line.scale;
                   to.sums[m] = context.kernels.round(g, row, key.words.data(), m, 0);
                   if (context.tiles) put_line(to, m, g);
                 }
               });
  return to;
}

RoundedGradient round_columns(const RoundingContext& context, Tensor d_y, std::int64_t first,
                              std::int64_t last, const float* steps, const RoundingKey& key) {
  const std::int64_t n = d_y.cols();
  const RoundedGradient to = take(context, n, last - first);
  auto* const factors =
      context.workspace.tensor(Slot::kRows, {round_up(n, 32)}, DType::kF32).as<float>();
  const std::int64_t groups = divide_up(n, kGroupColumns);
  const std::int64_t grain = divide_up(kElementsPerThread, kGroupColumns * (last - first));
  const std::int64_t most =
      divide_up(groups, parallel_parts(context.threads, groups, grain)) * kGroupColumns;
  const CodeScratch scratch(context, kBlockRows, most);
  parallel_for(context.threads, groups, grain,
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 const std::int64_t column = begin * kGroupColumns;
                 ColumnRange(context, d_y, first, steps, column, std::min(end * kGroupColumns, n),
                             factors + column)
                     .round(to, key, scratch.of(thread), scratch.stride());
               });
  return to;
}

}  // namespace quest
