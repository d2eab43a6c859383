// CpuBackend: the integer product of quantized rows.
#include <algorithm>
#include <cassert>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/packed/bit_product.h"
#include "backend/cpu/packed/packed_kernels.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/rows/float_rows.h"
#include "backend/cpu/tiles/tile_codes.h"
#include "core/division.h"

namespace quest {
namespace {

/// Multiplications below which a thread of its own does not pay.
constexpr std::int64_t kProductsPerThread = 1 << 21;

/// Rows of x for which packing the signs of w pays.
constexpr std::int64_t kSignRows = 8;

/// w as panels, with the numbers that belong to its rows.
struct PackedWeights {
  std::uint8_t* panels;
  float* scales;         ///< [panels * panel_columns] step / 4
  std::int32_t* biases;  ///< [panels * panel_columns] 2 code_sum + K
  std::int64_t panel_bytes;
};

PackedWeights pack_weights(Workspace& workspace, int threads, const ProductKernels& kernels,
                           const QuantizedRows& w) {
  const std::int64_t rows = w.codes.rows();
  const std::int64_t columns = w.codes.cols();
  const std::int64_t width = kernels.panel_columns;
  const std::int64_t panels = divide_up(rows, width);
  const std::int64_t panel_bytes =
      divide_up(columns, kernels.group_values) * width * kernels.group_bytes;
  std::byte* const memory =
      workspace.bytes(Workspace::Slot::kPackedWeights,
                      static_cast<std::size_t>(panels * (panel_bytes + 8 * width)));
  PackedWeights packed{};
  packed.panels = reinterpret_cast<std::uint8_t*>(memory);
  packed.scales = reinterpret_cast<float*>(memory + panels * panel_bytes);
  packed.biases = reinterpret_cast<std::int32_t*>(packed.scales + panels * width);
  packed.panel_bytes = panel_bytes;
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 18) / panel_bytes);
  parallel_for(threads, panels, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t p = begin; p < end; ++p) {
      const std::int64_t first = p * width;
      const std::int64_t count = std::min(width, rows - first);
      kernels.pack_panel(packed.panels + p * panel_bytes, w.codes.row<std::int8_t>(first),
                         w.codes.row_stride, count, columns);
      for (std::int64_t j = first; j < first + width; ++j) {
        packed.scales[j] = j < rows ? w.steps.as<float>()[j] * 0.25f : 0.0f;
        packed.biases[j] =
            j < rows ? 2 * w.code_sums.as<std::int32_t>()[j] + static_cast<std::int32_t>(columns)
                     : 0;
      }
    }
  });
  return packed;
}

/// The rows of x as the tiles read them.
struct PackedInputs {
  const std::uint8_t* rows;
  std::int64_t row_bytes;
};

PackedInputs pack_inputs(Workspace& workspace, int threads, const ProductKernels& kernels,
                         const QuantizedRows& x) {
  const std::int64_t columns = x.codes.cols();
  if (kernels.reads_codes && columns % kernels.group_values == 0) {
    return {reinterpret_cast<const std::uint8_t*>(x.codes.as<std::int8_t>()), x.codes.row_stride};
  }
  const std::int64_t row_bytes = divide_up(columns, kernels.group_values) * kernels.group_bytes;
  auto* const rows = reinterpret_cast<std::uint8_t*>(workspace.bytes(
      Workspace::Slot::kPackedInputs, static_cast<std::size_t>(x.codes.rows() * row_bytes)));
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 17) / row_bytes);
  parallel_for(threads, x.codes.rows(), grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      kernels.pack_row(rows + i * row_bytes, x.codes.row<std::int8_t>(i), columns);
    }
  });
  return {rows, row_bytes};
}

/// Rows of x up to which w is read where it lies, if the instruction set can.
constexpr std::int64_t kDotRows = 32;
/// The same where there are tiles: packing w for them takes as long as 8 rows of dot products.
constexpr std::int64_t kDotRowsBesideTiles = 8;

void multiply_few_rows(Workspace& workspace, int threads, const ProductKernels& kernels,
                       const ProductOutput& out, const QuantizedRows& x, const QuantizedRows& w) {
  const std::int64_t m = x.codes.rows();
  const std::int64_t n = w.codes.rows();
  const std::int64_t k = x.codes.cols();
  const std::int64_t row_bytes = divide_up(k, 64) * 64;
  auto* const rows = reinterpret_cast<std::uint8_t*>(
      workspace.bytes(Workspace::Slot::kPackedInputs, static_cast<std::size_t>(m * row_bytes)));
  for (std::int64_t i = 0; i < m; ++i) {
    kernels.pack_dot_row(rows + i * row_bytes, x.codes.row<std::int8_t>(i), k);
  }
  const std::int64_t grain = divide_up(kProductsPerThread / 8, 4 * m * k);
  parallel_for(threads, divide_up(n, 4), grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t j = 4 * begin; j < std::min(4 * end, n); j += 4) {
      for (std::int64_t i = 0; i < m; i += 4) {
        DotTile tile{};
        tile.x = rows + i * row_bytes;
        tile.x_row_bytes = row_bytes;
        tile.w = w.codes.row<std::int8_t>(j);
        tile.w_row_bytes = w.codes.row_stride;
        tile.k = k;
        tile.rows = static_cast<std::int32_t>(std::min<std::int64_t>(4, m - i));
        tile.columns = static_cast<std::int32_t>(std::min<std::int64_t>(4, n - j));
        tile.x_steps = x.steps.as<float>() + i;
        tile.x_sums = x.code_sums.as<std::int32_t>() + i;
        tile.w_steps = w.steps.as<float>() + j;
        tile.w_sums = w.code_sums.as<std::int32_t>() + j;
        tile.y = {row_of(out.y, i, j).data, out.y.dtype == DType::kBF16};
        tile.y_stride = out.y.row_stride;
        tile.add = out.write == Write::kAdd;
        kernels.dot_tile(tile);
      }
    }
  });
  out.wrote_all(threads);
}

void multiply_many_rows(Workspace& workspace, int threads, const ProductKernels& kernels,
                        const ProductOutput& out, const QuantizedRows& x, const QuantizedRows& w) {
  const std::int64_t m = x.codes.rows();
  const std::int64_t n = w.codes.rows();
  const std::int64_t k = x.codes.cols();
  const PackedWeights packed_w = pack_weights(workspace, threads, kernels, w);
  const PackedInputs packed_x = pack_inputs(workspace, threads, kernels, x);
  const std::int64_t width = kernels.panel_columns;
  const std::int64_t panels = divide_up(n, width);
  const std::int64_t tiles = divide_up(m, kernels.tile_rows);
  const std::int64_t block_tiles =
      std::max<std::int64_t>(1, kernels.row_block_bytes / (packed_x.row_bytes * kernels.tile_rows));
  // Rows of x are split where there are enough of them; else the panels of w.
  const bool splits_rows = tiles >= 4 * threads || tiles >= panels;

  const auto compute = [&](std::int64_t tile_begin, std::int64_t tile_end, std::int64_t panel_begin,
                           std::int64_t panel_end) {
    for (std::int64_t block = tile_begin; block < tile_end; block += block_tiles) {
      const std::int64_t block_end = std::min(block + block_tiles, tile_end);
      for (std::int64_t p = panel_begin; p < panel_end; ++p) {
        const std::int64_t i = block * kernels.tile_rows;
        const std::int64_t j = p * width;
        ProductStrip strip{};
        strip.x = packed_x.rows + i * packed_x.row_bytes;
        strip.x_row_bytes = packed_x.row_bytes;
        strip.panel = packed_w.panels + p * packed_w.panel_bytes;
        strip.groups = divide_up(k, kernels.group_values);
        strip.rows = static_cast<std::int32_t>(std::min(block_end * kernels.tile_rows, m) - i);
        strip.columns = static_cast<std::int32_t>(std::min(width, n - j));
        strip.x_steps = x.steps.as<float>() + i;
        strip.x_sums = x.code_sums.as<std::int32_t>() + i;
        strip.w_scales = packed_w.scales + j;
        strip.w_biases = packed_w.biases + j;
        strip.y = {row_of(out.y, i, j).data, out.y.dtype == DType::kBF16};
        strip.y_stride = out.y.row_stride;
        strip.add = out.write == Write::kAdd;
        kernels.strip(strip);
        if (splits_rows) out.wrote({i, i + strip.rows}, {j, j + strip.columns});
      }
    }
  };
  if (splits_rows) {
    const std::int64_t grain = divide_up(kProductsPerThread, kernels.tile_rows * n * k);
    parallel_for(threads, tiles, grain, [&](std::int64_t begin, std::int64_t end, int) {
      compute(begin, end, 0, panels);
    });
  } else {
    const std::int64_t grain = divide_up(kProductsPerThread, width * m * k);
    parallel_for(threads, panels, grain,
                 [&](std::int64_t begin, std::int64_t end, int) { compute(0, tiles, begin, end); });
    out.wrote_all(threads);
  }
}

/// w of one bit as a packed file has it.
PackedRows pack_signs(Workspace& workspace, int threads, const PackedKernels& kernels,
                      const QuantizedRows& w) {
  const std::int64_t rows = w.codes.rows();
  const std::int64_t columns = w.codes.cols();
  const std::int64_t stride = sign_row_bytes(columns);
  Tensor signs = workspace.tensor(Workspace::Slot::kPackedWeights, {rows, stride}, DType::kU8);
  const std::int64_t grain = divide_up(1 << 16, columns);
  parallel_for(threads, rows, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t j = begin; j < end; ++j) {
      kernels.pack_signs(signs.row<std::uint8_t>(j), w.codes.row<std::int8_t>(j), columns);
    }
  });
  return {signs.columns(0, divide_up(columns, 8)), w.steps, w.code_sums, 1, columns};
}

}  // namespace

void CpuBackend::multiply_rows(const ProductOutput& out, const QuantizedRows& x,
                               const QuantizedRows& w) {
  const std::int64_t m = x.codes.rows();
  assert(w.codes.cols() == x.codes.cols() && out.y.rows() == m && out.y.cols() == w.codes.rows());
  assert(x.codes.cols() <= 32768);
  const QuantKernels& kernels = quant_kernels(isa_);
  const ProductKernels& product = kernels.product;
  if (bits_pay(isa_, x.bits, w.bits, m, x.codes.cols(), /*packed=*/false)) {
    return multiply_bits({isa_, workspace_, threads_}, out, x, x.bits, weights_of(w));
  }
  const PackedKernels& packed = packed_kernels(isa_);
  if (packed.xor_tile == nullptr && x.bits == 1 && w.bits == 1 && m >= kSignRows) {
    packed_matmul(out.y, x, 1, pack_signs(workspace_, threads_, packed, w), out.write);
    return out.wrote_all(threads_);
  }
  const std::int64_t dot_rows = kernels.byte_tiles != nullptr ? kDotRowsBesideTiles : kDotRows;
  if (product.dot_tile != nullptr && m <= dot_rows) {
    return multiply_few_rows(workspace_, threads_, product, out, x, w);
  }
  if (kernels.byte_tiles != nullptr) {
    return multiply_codes({workspace_, threads_, *kernels.byte_tiles}, out, x, w);
  }
  multiply_many_rows(workspace_, threads_, product, out, x, w);
}

void CpuBackend::quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                                  Write write) {
  multiply_rows({y, write}, x, w);
}

void CpuBackend::quantized_matmul_rope(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                                       const Rotary& rotary) {
  const RotaryEnd end{rotary, float_kernels_};
  multiply_rows({y, Write::kSet, &end}, x, w);
}

}  // namespace quest
