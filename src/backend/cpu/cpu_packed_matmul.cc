// CpuBackend: products with packed weights, read as they lie in the file.
#include <algorithm>
#include <cassert>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/float_rows.h"
#include "backend/cpu/packed_kernels.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quant_kernels.h"

namespace quest {
namespace {

using Slot = Workspace::Slot;

/// Rows of x up to which weights are unpacked in registers, once for all of them.
constexpr std::int64_t kDotRows = 16;
/// Multiplications below which a thread of its own does not pay.
constexpr std::int64_t kProductsPerThread = 1 << 18;
/// Rows of w that a thread takes at a time when x has few rows.
constexpr std::int64_t kDotColumns = 64;
/// Bytes of unpacked panels of w that a thread holds.
constexpr std::int64_t kPanelBytes = 384 << 10;
/// Rows of w that are dequantized at a time for a dense product.
constexpr std::int64_t kDenseRows = 256;

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
std::int64_t round_up(std::int64_t value, std::int64_t by) { return divide_up(value, by) * by; }

void* element_address(Tensor y, std::int64_t i, std::int64_t j) {
  if (y.dtype == DType::kBF16) return y.row<BFloat16>(i) + j;
  return y.row<float>(i) + j;
}

FloatRow float_row(Tensor x, std::int64_t r) {
  return {element_address(x, r, 0), x.dtype == DType::kBF16};
}

/// An integer product under way: y (= or +=) x w^T.
struct Product {
  Tensor y;
  const QuantizedRows& x;
  const PackedRows& w;
  Write write;
  const PackedKernels& kernels;
  bool signs;  ///< one bit by one bit
  const std::uint8_t* x_rows = nullptr;
  std::int64_t x_row_bytes = 0;

  std::int64_t m() const { return x.codes.rows(); }
  std::int64_t n() const { return w.codes.rows(); }
  std::int64_t k() const { return w.columns; }

  /// Columns [j, j + count) of row i of y from raw sums: of u qx, or of differing signs.
  void finish(std::int64_t i, std::int64_t j, std::int64_t count, const std::int32_t* sums) const {
    FinishedRow row{};
    row.y = element_address(y, i, j);
    row.bf16 = y.dtype == DType::kBF16;
    row.add = write == Write::kAdd;
    row.columns = count;
    row.sums = sums;
    row.step = x.steps.as<float>()[i];
    row.w_steps = w.steps.as<float>() + j;
    if (signs) {
      row.factor = -2;
      row.constant = static_cast<std::int32_t>(k());
    } else {
      // T = 4 sum qx qw + 2 sum qx + 2 sum qw + K, and sum qx qw = sum u qx - 2^(b-1) sum qx.
      row.factor = 4;
      row.constant = static_cast<std::int32_t>(k()) +
                     (2 - (4 << (w.bits - 1))) * x.code_sums.as<std::int32_t>()[i];
      row.w_sums = w.code_sums.as<std::int32_t>() + j;
    }
    kernels.finish_row(row);
  }
};

/// All rows of x as `dot` or the signs' kernels read them.
void pack_rows(Product& p, Workspace& workspace, int threads) {
  p.x_row_bytes =
      round_up(p.signs ? sign_row_bytes(p.k()) : p.kernels.x_row_bytes(p.k(), p.w.bits), 64);
  auto* const rows = reinterpret_cast<std::uint8_t*>(
      workspace.bytes(Slot::kPackedInputs, static_cast<std::size_t>(p.m() * p.x_row_bytes)));
  p.x_rows = rows;
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 15) / p.k());
  parallel_for(threads, p.m(), grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int8_t* const codes = p.x.codes.row<std::int8_t>(i);
      std::uint8_t* const out = rows + i * p.x_row_bytes;
      if (p.signs) {
        p.kernels.pack_signs(out, codes, p.k());
      } else {
        p.kernels.pack_x(out, codes, p.k(), p.w.bits);
      }
    }
  });
}

void multiply_few_rows(Product& p, Workspace& workspace, int threads) {
  pack_rows(p, workspace, threads);
  const std::int64_t sums_bytes = 4 * p.m() * kDotColumns;
  const std::int64_t thread_bytes =
      round_up(sums_bytes, 64) + round_up(dot_scratch_bytes(p.k()), 64);
  auto* const memory = reinterpret_cast<std::uint8_t*>(
      workspace.bytes(Slot::kPackedSums, static_cast<std::size_t>(threads * thread_bytes)));
  const std::int64_t grain = divide_up(kProductsPerThread, kDotColumns * p.m() * p.k());
  parallel_for(threads, divide_up(p.n(), kDotColumns), grain,
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 std::uint8_t* const own = memory + thread * thread_bytes;
                 auto* const sums = reinterpret_cast<std::int32_t*>(own);
                 for (std::int64_t j = begin * kDotColumns; j < std::min(end * kDotColumns, p.n());
                      j += kDotColumns) {
                   PackedDot dot{};
                   dot.x = p.x_rows;
                   dot.x_row_bytes = p.x_row_bytes;
                   dot.rows = p.m();
                   dot.w = p.w.codes.row<std::uint8_t>(j);
                   dot.w_row_bytes = p.w.codes.row_stride;
                   dot.columns = std::min(kDotColumns, p.n() - j);
                   dot.k = p.k();
                   dot.bits = p.w.bits;
                   dot.sums = sums;
                   dot.stride = kDotColumns;
                   dot.scratch = own + round_up(sums_bytes, 64);
                   p.signs ? p.kernels.xor_dot(dot) : p.kernels.dot(dot);
                   for (std::int64_t i = 0; i < p.m(); ++i) {
                     p.finish(i, j, dot.columns, sums + i * kDotColumns);
                   }
                 }
               });
}

/// Panels of signs: 4-byte groups of `width` rows of w beside each other, zeros where there is no
/// row.
void pack_sign_panel(std::uint8_t* panel, const PackedRows& w, std::int64_t first,
                     std::int64_t width) {
  const std::int64_t row_bytes = w.codes.cols();
  const std::int64_t groups = divide_up(w.columns, 32);
  const std::int64_t rows = std::min(width, w.codes.rows() - first);
  std::fill(panel, panel + groups * width * 4, std::uint8_t{0});
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint8_t* const row = w.codes.row<std::uint8_t>(first + r);
    std::uint8_t* const out = panel + 4 * r;
    const std::int64_t whole = row_bytes / 4;
    for (std::int64_t g = 0; g < whole; ++g) std::copy_n(row + 4 * g, 4, out + g * width * 4);
    std::copy(row + 4 * whole, row + row_bytes, out + whole * width * 4);
  }
}

void multiply_signs(Product& p, Workspace& workspace, int threads) {
  pack_rows(p, workspace, threads);
  const std::int64_t width = p.kernels.xor_columns;
  const std::int64_t tile_rows = p.kernels.xor_rows;
  const std::int64_t groups = divide_up(p.k(), 32);
  const std::int64_t panel_bytes = groups * width * 4;
  const std::int64_t thread_bytes = round_up(panel_bytes + 4 * tile_rows * width, 64);
  auto* const memory = reinterpret_cast<std::uint8_t*>(
      workspace.bytes(Slot::kPackedSums, static_cast<std::size_t>(threads * thread_bytes)));
  const std::int64_t grain = divide_up(8 * kProductsPerThread, width * p.m() * p.k());
  parallel_for(threads, divide_up(p.n(), width), grain,
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 std::uint8_t* const panel = memory + thread * thread_bytes;
                 auto* const sums = reinterpret_cast<std::int32_t*>(panel + panel_bytes);
                 for (std::int64_t j = begin * width; j < std::min(end * width, p.n());
                      j += width) {
                   pack_sign_panel(panel, p.w, j, width);
                   for (std::int64_t i = 0; i < p.m(); i += tile_rows) {
                     XorTile tile{};
                     tile.x = p.x_rows + i * p.x_row_bytes;
                     tile.x_row_bytes = p.x_row_bytes;
                     tile.panel = panel;
                     tile.groups = groups;
                     tile.rows = static_cast<std::int32_t>(std::min(tile_rows, p.m() - i));
                     tile.sums = sums;
                     p.kernels.xor_tile(tile);
                     for (std::int64_t r = 0; r < tile.rows; ++r) {
                       p.finish(i + r, j, std::min(width, p.n() - j), sums + r * width);
                     }
                   }
                 }
               });
}

/// The rows of x as the tiles of the product on plain codes read them.
void pack_tile_rows(Product& p, Workspace& workspace, int threads, const ProductKernels& tiles) {
  p.x_row_bytes = p.x.codes.row_stride;
  if (tiles.reads_codes && p.k() % tiles.group_values == 0) {
    p.x_rows = reinterpret_cast<const std::uint8_t*>(p.x.codes.as<std::int8_t>());
    return;
  }
  p.x_row_bytes = divide_up(p.k(), tiles.group_values) * tiles.group_bytes;
  auto* const rows = reinterpret_cast<std::uint8_t*>(
      workspace.bytes(Slot::kPackedInputs, static_cast<std::size_t>(p.m() * p.x_row_bytes)));
  p.x_rows = rows;
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 17) / p.x_row_bytes);
  parallel_for(threads, p.m(), grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      tiles.pack_row(rows + i * p.x_row_bytes, p.x.codes.row<std::int8_t>(i), p.k());
    }
  });
}

/// What a thread holds of w: a few panels, unpacked, with the numbers that belong to their rows.
struct Panels {
  std::int64_t width;        ///< rows of w in a panel
  std::int64_t panel_bytes;  ///< of one
  std::int64_t count;        ///< that fit
  std::uint8_t* panels;
  float* scales;
  std::int32_t* biases;
  std::int8_t* codes;  ///< [width][K]

  Panels(const ProductKernels& tiles, std::int64_t k)
      : width(tiles.panel_columns),
        panel_bytes(divide_up(k, tiles.group_values) * width * tiles.group_bytes),
        count(std::clamp<std::int64_t>(kPanelBytes / panel_bytes, 1, 8)),
        panels(nullptr),
        scales(nullptr),
        biases(nullptr),
        codes(nullptr) {}

  std::int64_t bytes(std::int64_t k) const {
    return round_up(count * (panel_bytes + 8 * width) + width * k, 64);
  }
  void place_at(std::uint8_t* memory) {
    panels = memory;
    scales = reinterpret_cast<float*>(memory + count * panel_bytes);
    biases = reinterpret_cast<std::int32_t*>(scales + count * width);
    codes = reinterpret_cast<std::int8_t*>(biases + count * width);
  }
  /// Fills panel `at` with the rows of w from `first` on.
  void unpack(std::int64_t at, const Product& p, const ProductKernels& tiles, std::int64_t first) {
    const std::int64_t rows = std::min(width, p.n() - first);
    for (std::int64_t r = 0; r < rows; ++r) {
      p.kernels.unpack_row(codes + r * p.k(), p.w.codes.row<std::uint8_t>(first + r), p.k(),
                           p.w.bits);
    }
    tiles.pack_panel(panels + at * panel_bytes, codes, p.k(), rows, p.k());
    for (std::int64_t r = 0; r < width; ++r) {
      const bool exists = r < rows;
      scales[at * width + r] = exists ? p.w.steps.as<float>()[first + r] * 0.25f : 0.0f;
      biases[at * width + r] = exists ? 2 * p.w.code_sums.as<std::int32_t>()[first + r] +
                                            static_cast<std::int32_t>(p.k())
                                      : 0;
    }
  }
};

/// All rows of x against panels [begin, end) of w, on the calling thread.
void multiply_panels(const Product& p, const ProductKernels& tiles, Panels& held,
                     std::int64_t begin, std::int64_t end) {
  const std::int64_t block_rows =
      tiles.tile_rows *
      std::max<std::int64_t>(1, tiles.row_block_bytes / (p.x_row_bytes * tiles.tile_rows));
  for (std::int64_t group = begin; group < end; group += held.count) {
    const std::int64_t count = std::min(held.count, end - group);
    for (std::int64_t c = 0; c < count; ++c) held.unpack(c, p, tiles, (group + c) * held.width);
    for (std::int64_t i = 0; i < p.m(); i += block_rows) {
      for (std::int64_t c = 0; c < count; ++c) {
        const std::int64_t j = (group + c) * held.width;
        ProductStrip strip{};
        strip.x = p.x_rows + i * p.x_row_bytes;
        strip.x_row_bytes = p.x_row_bytes;
        strip.panel = held.panels + c * held.panel_bytes;
        strip.groups = divide_up(p.k(), tiles.group_values);
        strip.rows = static_cast<std::int32_t>(std::min(block_rows, p.m() - i));
        strip.columns = static_cast<std::int32_t>(std::min(held.width, p.n() - j));
        strip.x_steps = p.x.steps.as<float>() + i;
        strip.x_sums = p.x.code_sums.as<std::int32_t>() + i;
        strip.w_scales = held.scales + c * held.width;
        strip.w_biases = held.biases + c * held.width;
        strip.y = {element_address(p.y, i, j), p.y.dtype == DType::kBF16};
        strip.y_stride = p.y.row_stride;
        strip.add = p.write == Write::kAdd;
        tiles.strip(strip);
      }
    }
  }
}

void multiply_many_rows(Product& p, Workspace& workspace, int threads,
                        const ProductKernels& tiles) {
  pack_tile_rows(p, workspace, threads, tiles);
  const Panels shape(tiles, p.k());
  const std::int64_t thread_bytes = shape.bytes(p.k());
  auto* const memory = reinterpret_cast<std::uint8_t*>(
      workspace.bytes(Slot::kPackedWeights, static_cast<std::size_t>(threads * thread_bytes)));
  const std::int64_t grain = divide_up(8 * kProductsPerThread, shape.width * p.m() * p.k());
  parallel_for(threads, divide_up(p.n(), shape.width), grain,
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 Panels held = shape;
                 held.place_at(memory + thread * thread_bytes);
                 multiply_panels(p, tiles, held, begin, end);
               });
}

/// y[i, j] (= or +=) value.
void put(Tensor y, std::int64_t i, std::int64_t j, float value, Write write) {
  if (y.dtype == DType::kBF16) {
    BFloat16& at = y.row<BFloat16>(i)[j];
    at = to_bfloat16(write == Write::kAdd ? to_float(at) + value : value);
  } else {
    float& at = y.row<float>(i)[j];
    at = write == Write::kAdd ? at + value : value;
  }
}

}  // namespace

void CpuBackend::packed_matmul(Tensor y, const QuantizedRows& x, int x_bits, const PackedRows& w,
                               Write write) {
  assert(x.codes.cols() == w.columns && y.rows() == x.codes.rows() && y.cols() == w.codes.rows());
  Product p{y, x, w, write, packed_kernels(isa_), x_bits == 1 && w.bits == 1};
  if (p.m() <= kDotRows) return multiply_few_rows(p, workspace_, threads_);
  // Many rows of signs: AMX tiles of bytes are 2.6 times as fast as xor and popcount on one thread
  // of a Sapphire Rapids Xeon, so unpacking pays there.
  if (p.signs && isa_ != Isa::kAmx) {
    return p.kernels.xor_tile != nullptr ? multiply_signs(p, workspace_, threads_)
                                         : multiply_few_rows(p, workspace_, threads_);
  }
  multiply_many_rows(p, workspace_, threads_, quant_kernels(isa_).product);
}

void CpuBackend::packed_dense_matmul(Tensor y, Tensor x, const PackedRows& w, std::int64_t block,
                                     Write write) {
  const QuantKernels& quant = quant_kernels(isa_);
  const PackedKernels& packed = packed_kernels(isa_);
  const std::int64_t m = x.rows();
  const std::int64_t n = w.codes.rows();
  const std::int64_t k = w.columns;
  const std::int64_t stride = scratch_columns(k);
  const std::int64_t thread_bytes = 5 * stride;  // a row of floats and one of codes
  std::byte* const memory =
      workspace_.bytes(Slot::kPackedSums, static_cast<std::size_t>(threads_ * thread_bytes));
  const auto scratch_of = [&](int thread) {
    return reinterpret_cast<float*>(memory + thread * thread_bytes);
  };
  const auto codes_of = [&](int thread) {
    return reinterpret_cast<std::int8_t*>(scratch_of(thread) + stride);
  };
  if (m > kDotRows) {
    // A part of w at a time becomes dense.
    const Tensor dense =
        workspace_.tensor(Slot::kPackedRows, {std::min(n, kDenseRows), k}, x.dtype);
    for (std::int64_t j = 0; j < n; j += kDenseRows) {
      const std::int64_t count = std::min(kDenseRows, n - j);
      parallel_for(
          threads_, count, row_grain(k), [&](std::int64_t begin, std::int64_t end, int thread) {
            for (std::int64_t r = begin; r < end; ++r) {
              packed.unpack_row(codes_of(thread), w.codes.row<std::uint8_t>(j + r), k, w.bits);
              const RotatedRow to{float_row(dense, r), false, scratch_of(thread)};
              quant.dequantize_row(to, codes_of(thread), w.steps.as<float>()[j + r], k, block);
            }
          });
      products_.multiply(y.columns(j, j + count), {x}, {dense.rows_slice(0, count), true}, write,
                         workspace_);
    }
    return;
  }
  // x (Zw H)^T = (x H) Zw^T: a few rows of x are rotated instead of w.
  const Tensor z = workspace_.tensor(Slot::kPackedRows, {m, stride + 1}, DType::kF32);
  for (std::int64_t i = 0; i < m; ++i) {
    float* const row = z.row<float>(i);
    quant.rotate_row({{row, false}, false, scratch_of(0)}, float_row(x, i), nullptr, k, block);
    std::fill(row + k, row + stride, 0.0f);
    double sum = 0.0;
    for (std::int64_t c = 0; c < k; ++c) sum += row[c];
    row[stride] = static_cast<float>(0.5 * sum);
  }
  parallel_for(threads_, n, divide_up(kProductsPerThread / 4, m * k),
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 std::int8_t* const codes = codes_of(thread);
                 std::fill(codes, codes + stride, std::int8_t{0});
                 for (std::int64_t j = begin; j < end; ++j) {
                   packed.unpack_row(codes, w.codes.row<std::uint8_t>(j), k, w.bits);
                   for (std::int64_t i = 0; i < m; ++i) {
                     const float* const row = z.row<float>(i);
                     const float sum = packed.dot_floats(row, codes, k) + row[stride];
                     put(y, i, j, sum * w.steps.as<float>()[j], write);
                   }
                 }
               });
}

void CpuBackend::stored_matmul(Tensor y, Tensor x, Tensor w, Write write) {
  const std::int64_t m = x.rows();
  const std::int64_t n = w.rows();
  const std::int64_t k = w.cols();
  if (m > kDotRows) {
    if (w.dtype == x.dtype) return matmul(y, x, w, write);
    const Tensor dense =
        workspace_.tensor(Slot::kPackedRows, {std::min(n, kDenseRows), k}, x.dtype);
    for (std::int64_t j = 0; j < n; j += kDenseRows) {
      const std::int64_t count = std::min(kDenseRows, n - j);
      const Tensor part = dense.rows_slice(0, count);
      cast_rows(float_kernels_, part, w.rows_slice(j, j + count), threads_);
      products_.multiply(y.columns(j, j + count), {x}, {part, true}, write, workspace_);
    }
    return;
  }
  constexpr std::int64_t kRows = 64;  // of w at a time, while the rows of x pass by
  parallel_for(threads_, divide_up(n, kRows), divide_up(kProductsPerThread / 4, kRows * m * k),
               [&](std::int64_t begin, std::int64_t end, int) {
                 float sums[kRows];
                 for (std::int64_t j = begin * kRows; j < std::min(end * kRows, n); j += kRows) {
                   const std::int64_t count = std::min(kRows, n - j);
                   for (std::int64_t i = 0; i < m; ++i) {
                     float_kernels_.scores(sums, row_of(x, i), row_of(w, j), w.row_stride, count,
                                           k);
                     for (std::int64_t c = 0; c < count; ++c) put(y, i, j + c, sums[c], write);
                   }
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
