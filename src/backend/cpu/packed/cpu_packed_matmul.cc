// CpuBackend: integer products with packed weights, read as they lie in the file.
#include <algorithm>
#include <cassert>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/packed/bit_product.h"
#include "backend/cpu/packed/packed_dots.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/rows/float_rows.h"
#include "backend/cpu/tiles/tile_codes.h"

namespace quest {
namespace {

using Slot = Workspace::Slot;

/// Bytes of unpacked panels of w that a thread holds.
constexpr std::int64_t kPanelBytes = 384 << 10;

/// How few rows of x meet w.
enum class Dots : std::uint8_t {
  kBytes,     ///< products of bytes
  kSigns,     ///< one bit by one bit: bits that differ are counted
  kBitPairs,  ///< the same of two bits by two bits, of one row
};

/// Signs are always counted. Pairs of bits of one row are where cores count the bits of two vectors
/// a cycle; elsewhere their bytes are multiplied.
Dots choose_dots(const PackedKernels& kernels, std::int64_t rows, int x_bits, int w_bits) {
  if (x_bits == 1 && w_bits == 1) return Dots::kSigns;
  const bool pairs = rows == 1 && x_bits == 2 && w_bits == 2 && kernels.xor_pairs_dot != nullptr;
  return pairs && made_by_amd() ? Dots::kBitPairs : Dots::kBytes;
}

/// An integer product under way: y (= or +=) x w^T.
struct Product {
  Tensor y;
  const QuantizedRows& x;
  const PackedRows& w;
  Write write;
  const PackedKernels& kernels;
  Dots dots;
  const std::uint8_t* x_rows = nullptr;
  std::int64_t x_row_bytes = 0;

  std::int64_t m() const { return x.codes.rows(); }
  std::int64_t n() const { return w.codes.rows(); }
  std::int64_t k() const { return w.columns; }

  /// Columns [j, j + count) of row i of y from raw sums: of u qx, or of differing bits.
  void finish(std::int64_t i, std::int64_t j, std::int64_t count, const std::int32_t* sums) const {
    FinishedRow row{};
    row.y = row_of(y, i, j).data;
    row.bf16 = y.dtype == DType::kBF16;
    row.add = write == Write::kAdd;
    row.columns = count;
    row.sums = sums;
    row.step = x.steps.as<float>()[i];
    row.w_steps = w.steps.as<float>() + j;
    if (dots != Dots::kBytes) {
      row.factor = -2;
      row.constant = static_cast<std::int32_t>(dots == Dots::kSigns ? k() : 9 * k());
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

/// Bytes of a row of x as the dots read it, and that row.
std::int64_t dot_row_bytes(const Product& p) {
  if (p.dots == Dots::kSigns) return sign_row_bytes(p.k());
  if (p.dots == Dots::kBitPairs) return bit_pairs_row_bytes(p.k());
  return round_up(p.kernels.x_row_bytes(p.k(), p.w.bits), 64);
}
void pack_dot_row(const Product& p, std::uint8_t* out, const std::int8_t* codes) {
  if (p.dots == Dots::kSigns) return p.kernels.pack_signs(out, codes, p.k());
  if (p.dots == Dots::kBitPairs) return p.kernels.pack_bit_pairs(out, codes, p.k());
  p.kernels.pack_x(out, codes, p.k(), p.w.bits);
}

ChosenDot choose(const Product& p, const PackedDot& rows, Isa isa, Workspace& workspace) {
  if (p.dots == Dots::kSigns) return {p.kernels.xor_dot, rows};
  if (p.dots == Dots::kBitPairs) return {p.kernels.xor_pairs_dot, rows};
  return choose_dot(isa, rows, workspace);
}

void multiply_few_rows(Product& p, Isa isa, Workspace& workspace, int threads) {
  p.x_row_bytes = dot_row_bytes(p);
  p.x_rows = pack_each_row(
      p.x.codes, p.x_row_bytes, workspace, threads,
      [&](std::uint8_t* out, const std::int8_t* codes) { pack_dot_row(p, out, codes); });
  const PackedDot rows = dot_of_rows(p.w, p.x_rows, p.x_row_bytes, p.m());
  const ChosenDot chosen = choose(p, rows, isa, workspace);
  for_each_block_of_dots(chosen.kernel, chosen.dot, workspace, threads,
                         [&](std::int64_t j, std::int64_t count, const auto& sums_of) {
                           for (std::int64_t i = 0; i < p.m(); ++i)
                             p.finish(i, j, count, sums_of(i));
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
        strip.y = {row_of(p.y, i, j).data, p.y.dtype == DType::kBF16};
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

}  // namespace

void CpuBackend::packed_matmul(Tensor y, const QuantizedRows& x, int x_bits, const PackedRows& w,
                               Write write) {
  assert(x.codes.cols() == w.columns && y.rows() == x.codes.rows() && y.cols() == w.codes.rows());
  const PackedKernels& packed = packed_kernels(isa_);
  Product p{y, x, w, write, packed, choose_dots(packed, x.codes.rows(), x_bits, w.bits)};
  const QuantKernels& kernels = quant_kernels(isa_);
  if (bits_pay(isa_, x_bits, w.bits, p.m(), p.k(), /*packed=*/true)) {
    return multiply_bits({isa_, workspace_, threads_}, {y, write}, x, x_bits, weights_of(w));
  }
  if (p.m() <= kDotRows) return multiply_few_rows(p, isa_, workspace_, threads_);
  if (kernels.byte_tiles != nullptr) {
    return multiply_codes({workspace_, threads_, *kernels.byte_tiles}, {y, write}, x, w);
  }
  if (p.dots == Dots::kSigns) return multiply_few_rows(p, isa_, workspace_, threads_);
  multiply_many_rows(p, workspace_, threads_, kernels.product);
}

}  // namespace quest
