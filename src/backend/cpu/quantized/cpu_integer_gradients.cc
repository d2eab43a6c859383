// CpuBackend: gradients of the integer product as integer products of their own, after stochastic
// rounding of d_y.
#include <algorithm>
#include <cassert>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/rounding/rounded_gradient.h"
#include "backend/cpu/tiles/tile_product.h"
#include "core/division.h"

namespace quest {
namespace {

using Slot = Workspace::Slot;

/// Multiplications below which a thread of its own does not pay.
constexpr std::int64_t kProductsPerThread = 1 << 21;
/// Bytes below which a thread of its own does not pay to pack them.
constexpr std::int64_t kBytesPerThread = 1 << 17;

FloatRow element_address(Tensor x, std::int64_t r, std::int64_t c) {
  if (x.dtype == DType::kBF16) return {x.row<BFloat16>(r) + c, true};
  return {x.row<float>(r) + c, false};
}

void transpose(std::int8_t* out, const std::int8_t* in, std::int64_t in_stride, std::int64_t rows,
               std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) out[c * rows + r] = in[r * in_stride + c];
  }
}

/// out[i,k] (= or +=) scale_i * sum over j of g_ij (2 codes_jk + 1), whose integer comes as twice
/// the sum of g codes, and the line's sum.
struct LineProduct {
  Tensor out;
  RoundedGradient g;
  Tensor codes;
  Write write;
};

/// 0 and 1 for each of `columns`, rounded up to 32: what the columns add and their scale.
struct PlainColumns {
  const std::int32_t* biases;
  float* scales;

  PlainColumns(Workspace& workspace, std::int64_t columns, float scale) {
    const std::int64_t padded = round_up(columns, 32);
    const Tensor memory = workspace.tensor(Slot::kRows, {2 * padded}, DType::kF32);
    scales = memory.as<float>() + padded;
    std::fill_n(memory.as<float>(), padded, 0.0f);
    std::fill_n(scales, padded, scale);
    biases = reinterpret_cast<const std::int32_t*>(memory.as<float>());
  }
};

/// A packer for what is packed.
void copy_groups(std::uint8_t* out, const TileSource& source, const TilePart& part) {
  const std::int64_t all = divide_up(source.summed, kTileDepthBytes);
  const std::int64_t bytes = part.groups * kTileGroupBytes;
  for (std::int64_t i = 0; i < part.bundles; ++i, out += bytes) {
    std::memcpy(out,
                static_cast<const std::uint8_t*>(source.data) +
                    ((part.lane / kTileLanes + i) * all + part.group) * kTileGroupBytes,
                static_cast<std::size_t>(bytes));
  }
}

void multiply_on_tiles(Workspace& workspace, int threads, const ByteTileKernels& kernels,
                       const LineProduct& p) {
  const PlainColumns plain(workspace, p.out.cols(), 1.0f);
  const TileScales scales{1, p.g.sums, plain.biases, p.g.scales, plain.scales};
  const TileSource lines{p.g.codes, 0, p.g.lines, p.g.summed, true, nullptr, copy_groups};
  multiply_tiles({workspace, threads, kernels},
                 {lines, columns_source(p.codes, kernels.pack_quads), {p.out, p.write}, &scales});
}

/// The same product by the kernels of quantized_matmul, which take lines of summed values.
class VectorProduct {
 public:
  VectorProduct(Workspace& workspace, int threads, const ProductKernels& kernels,
                const LineProduct& product)
      : workspace_(workspace),
        threads_(threads),
        kernels_(kernels),
        p_(product),
        groups_(divide_up(product.g.summed, kernels.group_values)),
        line_bytes_(groups_ * kernels.group_bytes),
        panel_bytes_(line_bytes_ * kernels.panel_columns) {}

  void run() const {
    const std::uint8_t* const lines = pack_lines();
    const std::uint8_t* const panels = pack_panels();
    // The kernels make twice the integer.
    const PlainColumns plain(workspace_, kernels_.panel_columns, 0.5f);
    const std::int64_t tiles = divide_up(p_.out.rows(), kernels_.tile_rows);
    const std::int64_t block_tiles =
        std::max<std::int64_t>(1, kernels_.row_block_bytes / (line_bytes_ * kernels_.tile_rows));
    const std::int64_t grain =
        divide_up(kProductsPerThread, kernels_.tile_rows * p_.out.cols() * p_.g.summed);
    parallel_for(threads_, tiles, grain, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t block = begin; block < end; block += block_tiles) {
        const std::int64_t i = block * kernels_.tile_rows;
        const std::int64_t last =
            std::min(std::min(block + block_tiles, end) * kernels_.tile_rows, p_.out.rows());
        for (std::int64_t j = 0; j < p_.out.cols(); j += kernels_.panel_columns) {
          ProductStrip strip{};
          strip.x = lines + i * line_bytes_;
          strip.x_row_bytes = line_bytes_;
          strip.panel = panels + j / kernels_.panel_columns * panel_bytes_;
          strip.groups = groups_;
          strip.rows = static_cast<std::int32_t>(last - i);
          strip.columns = static_cast<std::int32_t>(
              std::min<std::int64_t>(kernels_.panel_columns, p_.out.cols() - j));
          strip.x_steps = p_.g.scales + i;
          strip.x_sums = p_.g.sums + i;
          strip.w_scales = plain.scales;
          strip.w_biases = plain.biases;
          strip.y = element_address(p_.out, i, j);
          strip.y_stride = p_.out.row_stride;
          strip.add = p_.write == Write::kAdd;
          kernels_.strip(strip);
        }
      }
    });
  }

 private:
  const std::uint8_t* pack_lines() const {
    if (kernels_.reads_codes && p_.g.summed % kernels_.group_values == 0) {
      return reinterpret_cast<const std::uint8_t*>(p_.g.codes);
    }
    auto* const packed = reinterpret_cast<std::uint8_t*>(
        workspace_.bytes(Slot::kPackedInputs, static_cast<std::size_t>(p_.g.lines * line_bytes_)));
    parallel_for(threads_, p_.g.lines, divide_up(kBytesPerThread, line_bytes_),
                 [&](std::int64_t begin, std::int64_t end, int) {
                   for (std::int64_t i = begin; i < end; ++i) {
                     kernels_.pack_integers(packed + i * line_bytes_, p_.g.codes + i * p_.g.summed,
                                            p_.g.summed);
                   }
                 });
    return packed;
  }

  const std::uint8_t* pack_panels() const {
    const std::int64_t width = kernels_.panel_columns;
    const std::int64_t panels = divide_up(p_.out.cols(), width);
    auto* const packed = reinterpret_cast<std::uint8_t*>(
        workspace_.bytes(Slot::kOperandB, static_cast<std::size_t>(panels * panel_bytes_)));
    const std::int64_t bytes = kernels_.pack_panel_of_columns ? 0 : width * p_.g.summed;
    auto* const scratch = reinterpret_cast<std::int8_t*>(
        workspace_.bytes(Slot::kSums, static_cast<std::size_t>(threads_ * bytes)));
    parallel_for(threads_, panels, divide_up(kBytesPerThread, panel_bytes_),
                 [&](std::int64_t begin, std::int64_t end, int thread) {
                   std::int8_t* const rows = scratch + thread * bytes;
                   for (std::int64_t j = begin; j < end; ++j) {
                     const std::int64_t count = std::min(width, p_.out.cols() - j * width);
                     pack_panel(packed + j * panel_bytes_, p_.codes.row<std::int8_t>(0) + j * width,
                                count, rows);
                   }
                 });
    return packed;
  }

  /// `count` columns of the codes; `rows` is scratch where they must be transposed.
  void pack_panel(std::uint8_t* panel, const std::int8_t* codes, std::int64_t count,
                  std::int8_t* rows) const {
    const std::int64_t stride = p_.codes.row_stride, summed = p_.g.summed;
    if (kernels_.pack_panel_of_columns != nullptr) {
      return kernels_.pack_panel_of_columns(panel, codes, stride, summed, count);
    }
    transpose(rows, codes, stride, summed, count);
    kernels_.pack_panel(panel, rows, summed, count, summed);
  }

  Workspace& workspace_;
  int threads_;
  const ProductKernels& kernels_;
  const LineProduct& p_;
  std::int64_t groups_;
  std::int64_t line_bytes_;  ///< of a packed line
  std::int64_t panel_bytes_;
};

void multiply(Workspace& workspace, int threads, const QuantKernels& kernels,
              const LineProduct& product) {
  assert(product.g.summed <= 32768);
  if (kernels.byte_tiles != nullptr) {
    return multiply_on_tiles(workspace, threads, *kernels.byte_tiles, product);
  }
  VectorProduct(workspace, threads, kernels.product, product).run();
}

}  // namespace

void CpuBackend::integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                           const RoundingKey& key, Write write) {
  assert(d_y.cols() == w.codes.rows() && d_z.cols() == w.codes.cols());
  assert(d_z.rows() == d_y.rows());
  const QuantKernels& kernels = quant_kernels(isa_);
  const RoundingContext rounding{workspace_, threads_, *kernels.rounding,
                                 kernels.byte_tiles != nullptr};
  const RoundedGradient g = round_rows(rounding, d_y, w.steps.as<float>(), key);
  multiply(workspace_, threads_, kernels, {d_z, g, w.codes, write});
}

void CpuBackend::integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                            const RoundingKey& key, Write write) {
  assert(d_y.rows() == x.codes.rows() && d_z.rows() == d_y.cols());
  assert(d_z.cols() == x.codes.cols());
  const QuantKernels& kernels = quant_kernels(isa_);
  const RoundingContext rounding{workspace_, threads_, *kernels.rounding,
                                 kernels.byte_tiles != nullptr};
  for (std::int64_t first = 0; first < d_y.rows(); first += kRoundedRows) {
    const std::int64_t last = std::min(first + kRoundedRows, d_y.rows());
    const RoundedGradient g = round_columns(rounding, d_y, first, last, x.steps.as<float>(), key);
    multiply(workspace_, threads_, kernels,
             {d_z, g, x.codes.rows_slice(first, last), first == 0 ? write : Write::kAdd});
  }
}

}  // namespace quest
