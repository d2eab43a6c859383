// Packing and blocking of the bf16 products that read codes.
#include "backend/cpu/tile_gradients.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/parallel.h"

namespace quest {
namespace {

using Slot = Workspace::Slot;

constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kTileBytes = 1024;
constexpr std::int64_t kStripRows = 2 * kTileRows;
/// Bytes of the first operand that stay in the second-level cache while all panels pass by.
constexpr std::int64_t kRowBlockBytes = 512 << 10;
/// Groups of summed values in a pass over an output. Sums that pass through memory in f32 between
/// chunks cost less than panels that no longer fit the cache; the weight gradient passes through
/// memory in any case, and takes longer chunks.
constexpr std::int64_t kInputChunk = 2048 / kBf16GroupValues;
constexpr std::int64_t kWeightChunk = 1024 / kBf16GroupValues;
/// Multiplications below which a thread of its own does not pay.
constexpr std::int64_t kProductsPerThread = 1 << 21;

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

/// Rows of bf16 in groups of 32 summed values.
struct FirstOperand {
  const std::uint8_t* data;
  std::int64_t rows;
  std::int64_t row_bytes, group_bytes, tile_bytes;  ///< as in Bf16Strip
};
/// Panels of 32 columns, each of all groups.
struct SecondOperand {
  const std::uint8_t* panels;
  std::int64_t groups;
};

SecondOperand pack_panels(const TileContext& context, Tensor codes, const float* steps) {
  const std::int64_t groups = divide_up(codes.rows(), kBf16GroupValues);
  const std::int64_t panels = divide_up(codes.cols(), kBf16PanelColumns);
  auto* const packed = reinterpret_cast<std::uint8_t*>(context.workspace.bytes(
      Slot::kOperandB, static_cast<std::size_t>(groups * panels * kBf16GroupBytes)));
  const std::int64_t grain = divide_up(32, panels);
  parallel_for(context.threads, groups, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t g = begin; g < end; ++g) {
      const std::int64_t r = g * kBf16GroupValues;
      const std::int64_t rows = std::min(kBf16GroupValues, codes.rows() - r);
      for (std::int64_t p = 0; p < panels; ++p) {
        const std::int64_t c = p * kBf16PanelColumns;
        context.kernels.pack_codes(packed + (p * groups + g) * kBf16GroupBytes,
                                   codes.row<std::int8_t>(r) + c, codes.row_stride, steps + r, rows,
                                   std::min(kBf16PanelColumns, codes.cols() - c));
      }
    }
  });
  return {packed, groups};
}

/// The rows of x, read where they lie if they are whole groups, else copied and followed by zeros.
FirstOperand rows_of(const TileContext& context, Tensor x) {
  const std::int64_t groups = divide_up(x.cols(), kBf16GroupValues);
  const auto operand = [&](const void* data, std::int64_t row_bytes) {
    return FirstOperand{static_cast<const std::uint8_t*>(data), x.rows(), row_bytes, 64,
                        kTileRows * row_bytes};
  };
  if (x.cols() % kBf16GroupValues == 0) return operand(x.data, 2 * x.row_stride);
  const std::int64_t row_bytes = groups * 64;
  std::byte* const copy =
      context.workspace.bytes(Slot::kOperandA, static_cast<std::size_t>(x.rows() * row_bytes));
  const auto used = static_cast<std::size_t>(2 * x.cols());
  parallel_for(context.threads, x.rows(), divide_up(1 << 17, row_bytes),
               [&](std::int64_t begin, std::int64_t end, int) {
                 for (std::int64_t r = begin; r < end; ++r) {
                   std::byte* const row = copy + r * row_bytes;
                   std::memcpy(row, x.row<BFloat16>(r), used);
                   std::memset(row + used, 0, static_cast<std::size_t>(row_bytes) - used);
                 }
               });
  return operand(copy, row_bytes);
}

/// The columns of x as rows.
FirstOperand columns_of(const TileContext& context, Tensor x) {
  const std::int64_t groups = divide_up(x.rows(), kBf16GroupValues);
  const std::int64_t strips = divide_up(x.cols(), kStripRows);
  const std::int64_t tile_bytes = groups * kTileBytes;
  auto* const packed = reinterpret_cast<std::uint8_t*>(
      context.workspace.bytes(Slot::kOperandA, static_cast<std::size_t>(2 * strips * tile_bytes)));
  const std::int64_t grain = divide_up(32, strips);
  parallel_for(context.threads, groups, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t g = begin; g < end; ++g) {
      const std::int64_t r = g * kBf16GroupValues;
      for (std::int64_t s = 0; s < strips; ++s) {
        std::uint8_t* const upper = packed + 2 * s * tile_bytes + g * kTileBytes;
        context.kernels.pack_transposed(upper, upper + tile_bytes,
                                        &x.row<BFloat16>(r)[s * kStripRows].bits, x.row_stride,
                                        std::min(kBf16GroupValues, x.rows() - r),
                                        std::min(kStripRows, x.cols() - s * kStripRows));
      }
    }
  });
  return {packed, x.cols(), 64, kTileBytes, tile_bytes};
}

FloatRow element_address(Tensor x, std::int64_t i, std::int64_t j) {
  if (x.dtype == DType::kBF16) return {x.row<BFloat16>(i) + j, true};
  return {x.row<float>(i) + j, false};
}

/// One product, cut into blocks of rows and chunks of summed values.
struct BlockedProduct {
  Tensor out;
  FirstOperand a;
  SecondOperand b;
  Write write;
  std::int64_t chunk;  ///< groups
  const Bf16Kernels& kernels;

  std::int64_t block_rows() const {
    return std::max(kStripRows,
                    kRowBlockBytes / (64 * std::min(chunk, b.groups)) / kStripRows * kStripRows);
  }
  /// Whether sums must wait in f32 until a bf16 output is rounded once.
  bool needs_partial() const { return out.dtype == DType::kBF16 && b.groups > chunk; }

  /// Rows [begin, end), at most block_rows(); `partial` f32 [rows, columns] where needed.
  void compute(std::int64_t begin, std::int64_t end, Tensor partial) const {
    for (std::int64_t g = 0; g < b.groups; g += chunk) {
      const bool first = g == 0;
      const bool last = g + chunk >= b.groups;
      for (std::int64_t j = 0; j < out.cols(); j += kBf16PanelColumns) {
        const std::int64_t panel = j / kBf16PanelColumns;
        Bf16Strip strip{};
        strip.a = a.data + begin / kTileRows * a.tile_bytes + g * a.group_bytes;
        strip.a_row_bytes = a.row_bytes;
        strip.a_group_bytes = a.group_bytes;
        strip.a_tile_bytes = a.tile_bytes;
        strip.panel = b.panels + (panel * b.groups + g) * kBf16GroupBytes;
        strip.groups = std::min(chunk, b.groups - g);
        strip.rows = static_cast<std::int32_t>(end - begin);
        strip.columns = static_cast<std::int32_t>(std::min(kBf16PanelColumns, out.cols() - j));
        if (partial && !last) {
          strip.out = element_address(partial, 0, j);
          strip.out_stride = partial.row_stride;
          strip.add = !first;
        } else {
          strip.out = element_address(out, begin, j);
          strip.out_stride = out.row_stride;
          strip.add = write == Write::kAdd || (!first && !partial);
          if (partial) {
            strip.partial = partial.row<float>(0) + j;
            strip.partial_stride = partial.row_stride;
          }
        }
        kernels.strip(strip);
      }
    }
  }
};

void multiply(const TileContext& context, Tensor out, const FirstOperand& a, const SecondOperand& b,
              Write write, std::int64_t chunk) {
  const BlockedProduct product{out, a, b, write, chunk, context.kernels};
  const std::int64_t block = product.block_rows();
  Tensor partials;
  if (product.needs_partial()) {
    partials =
        context.workspace.tensor(Slot::kSums, {context.threads * block, out.cols()}, DType::kF32);
  }
  const std::int64_t strips = divide_up(out.rows(), kStripRows);
  const std::int64_t grain =
      divide_up(kProductsPerThread, kStripRows * out.cols() * b.groups * kBf16GroupValues);
  parallel_for(
      context.threads, strips, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
        const std::int64_t last = std::min(end * kStripRows, out.rows());
        const Tensor partial =
            partials ? partials.rows_slice(thread * block, (thread + 1) * block) : Tensor();
        for (std::int64_t i = begin * kStripRows; i < last; i += block) {
          product.compute(i, std::min(i + block, last), partial);
        }
      });
}

}  // namespace

void tile_grad_input(const TileContext& context, Tensor d_z, Tensor d_y, const QuantizedRows& w,
                     Write write) {
  const SecondOperand values = pack_panels(context, w.codes, w.steps.as<float>());
  multiply(context, d_z, rows_of(context, d_y), values, write, kInputChunk);
}

void tile_grad_weight(const TileContext& context, Tensor d_z, Tensor d_y, const QuantizedRows& x) {
  constexpr std::int64_t kRows = kWeightChunk * kBf16GroupValues;
  for (std::int64_t first = 0; first < d_y.rows(); first += kRows) {
    const std::int64_t last = std::min(first + kRows, d_y.rows());
    const SecondOperand values =
        pack_panels(context, x.codes.rows_slice(first, last), x.steps.as<float>() + first);
    const FirstOperand gradient = columns_of(context, d_y.rows_slice(first, last));
    multiply(context, d_z, gradient, values, Write::kAdd, kWeightChunk);
  }
}

}  // namespace quest
