// Products of rows of few bits by xor and counting, a plane of bits at a time.
#include "backend/cpu/packed/bit_product.h"

#include <algorithm>

#include "backend/cpu/packed/packed_dots.h"
#include "backend/cpu/packed/packed_kernels.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/rows/float_rows.h"

namespace quest {
namespace {

using Slot = Workspace::Slot;

/// Pairs of planes up to which bits are faster than bytes (docs/log.md): AMD's cores count the bits
/// of two vectors a cycle, so that xor and count reaches 5.3 times VNNI's rate, Intel's of one, 2.9
/// times.
int most_pairs(const PackedKernels& kernels) {
  if (!kernels.counts_bits) return 1;
  return made_by_amd() ? 4 : 2;
}

/// The planes of a row of codes, the signs first.
void pack_planes(const PackedKernels& kernels, std::uint8_t* out, std::int64_t stride,
                 const std::int8_t* codes, std::int64_t columns, int planes) {
  kernels.pack_signs(out, codes, columns);
  for (int place = planes - 2; place >= 0; --place) {
    out += stride;
    kernels.pack_place(out, codes, columns, place);
  }
}

/// A product under way.
struct Product {
  const ProductOutput& out;
  const QuantizedRows& x;
  int x_planes;
  const BitWeights& w;
  const PackedKernels& kernels;
  const std::uint8_t* x_rows = nullptr;  ///< [M][x_planes][row_bytes()]

  std::int64_t m() const { return x.codes.rows(); }
  std::int64_t n() const { return w.codes.rows(); }
  std::int64_t k() const { return x.codes.cols(); }
  std::int64_t row_bytes() const { return sign_row_bytes(k()); }
  std::int64_t tile_rows() const { return kernels.xor_rows / x_planes; }
};

void pack_inputs(Product& p, Workspace& workspace, int threads) {
  p.x_rows = pack_each_row(p.x.codes, p.x_planes * p.row_bytes(), workspace, threads,
                           [&](std::uint8_t* out, const std::int8_t* codes) {
                             pack_planes(p.kernels, out, p.row_bytes(), codes, p.k(), p.x_planes);
                           });
}

/// Between what two threads write: closer, the prefetching of one takes lines from the other.
constexpr std::int64_t kApartBytes = 8192;

/// Sizes of the parts of the memory that panels of w take.
struct PanelSizes {
  std::int64_t width;         ///< rows of w in a panel
  std::int64_t count;         ///< panels of w
  std::int64_t panel_bytes;   ///< of one
  std::int64_t bits_bytes;    ///< of the planes of a panel's rows, of which a thread makes it
  std::int64_t thread_bytes;  ///< of a panel, such planes and a row of codes, kApartBytes after it

  PanelSizes(std::int64_t columns, std::int64_t n, std::int64_t k, int w_bits)
      : width(columns / w_bits),
        count(divide_up(n, width)),
        panel_bytes(divide_up(k, 32) * columns * 4),
        bits_bytes(columns * sign_row_bytes(k)),
        thread_bytes(panel_bytes + bits_bytes + round_up(k, 64) + kApartBytes) {}
  /// With room for `shared` panels beside those of the threads.
  std::int64_t bytes(std::int64_t shared, int threads) const {
    return shared * panel_bytes + threads * thread_bytes;
  }
};

/// Planes of w as panels.
class Panels {
 public:
  /// Room for `shared` panels, and for each thread to make its own.
  Panels(const Product& p, const PanelSizes& sizes, Workspace& workspace, std::int64_t shared,
         int threads)
      : p_(p),
        sizes_(sizes),
        shared_(reinterpret_cast<std::uint8_t*>(workspace.bytes(
            Slot::kPackedSums, static_cast<std::size_t>(sizes.bytes(shared, threads))))),
        own_(shared_ + shared * sizes.panel_bytes) {}

  std::uint8_t* shared(std::int64_t panel) const { return shared_ + panel * sizes_.panel_bytes; }
  std::uint8_t* own(int thread) const { return own_ + thread * sizes_.thread_bytes; }

  /// out = a panel, by a thread.
  void pack(std::uint8_t* out, std::int64_t panel, int thread) const {
    const std::int64_t first = panel * sizes_.width;
    const std::int64_t rows = std::min(sizes_.width, p_.n() - first);
    if (p_.w.packed() && p_.w.bits == 1) {  // the file's rows are planes
      const Tensor& codes = p_.w.codes;
      p_.kernels.pack_sign_panel(
          out, {codes.row<std::uint8_t>(first), codes.row_stride, rows, codes.cols()});
      return;
    }
    std::uint8_t* const bits = own(thread) + sizes_.panel_bytes;
    auto* const unpacked = reinterpret_cast<std::int8_t*>(bits + sizes_.bits_bytes);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int8_t* codes = unpacked;
      if (p_.w.packed()) {
        p_.kernels.unpack_row(unpacked, p_.w.codes.row<std::uint8_t>(first + r), p_.k(), p_.w.bits);
      } else {
        codes = p_.w.codes.row<std::int8_t>(first + r);
      }
      pack_planes(p_.kernels, bits + r * p_.row_bytes(), sizes_.width * p_.row_bytes(), codes,
                  p_.k(), p_.w.bits);
    }
    // Rows that do not exist become columns that nobody reads.
    const std::int64_t planes = (p_.w.bits - 1) * sizes_.width + rows;
    p_.kernels.pack_sign_panel(out, {bits, p_.row_bytes(), planes, divide_up(p_.k(), 8)});
  }
  /// `rows` rows of x from `row` on against a panel, whose columns lie at `columns`.
  void multiply(const std::uint8_t* columns, std::int64_t panel, std::int64_t row,
                std::int64_t rows) const {
    const std::int64_t j = panel * sizes_.width;
    XorTile tile{};
    tile.x = p_.x_rows + row * p_.x_planes * p_.row_bytes();
    tile.x_row_bytes = p_.row_bytes();
    tile.panel = columns;
    tile.groups = divide_up(p_.k(), 32);
    tile.planes = p_.x_planes;
    tile.w_planes = p_.w.bits;
    tile.rows = static_cast<std::int32_t>(std::min(rows, p_.m() - row) * p_.x_planes);
    tile.columns = static_cast<std::int32_t>(std::min(sizes_.width, p_.n() - j));
    tile.k = static_cast<std::int32_t>(p_.k());
    tile.x_steps = p_.x.steps.as<float>() + row;
    tile.w_steps = p_.w.steps.as<float>() + j;
    const Tensor& y = p_.out.y;
    tile.y = row_of(y, row, j).data;
    tile.bf16 = y.dtype == DType::kBF16;
    tile.y_stride = y.row_stride;
    tile.add = p_.out.write == Write::kAdd;
    p_.kernels.xor_tile(tile);
  }

 private:
  const Product& p_;
  PanelSizes sizes_;
  std::uint8_t* shared_;
  std::uint8_t* own_;
};

}  // namespace

bool bits_pay(Isa isa, int x_bits, int w_bits, std::int64_t rows, std::int64_t columns,
              bool packed) {
  // Tiles of bytes are faster than bits.
  const PackedKernels& kernels = packed_kernels(isa);
  if (kernels.xor_tile == nullptr || quant_kernels(isa).byte_tiles != nullptr) return false;
  if (w_bits > 2 || x_bits > 4 || x_bits * w_bits > most_pairs(kernels)) return false;
  // Shorter rows end before four pairs have gained what their sums cost.
  if (x_bits * w_bits > 2 && columns < 256) return false;
  // Rows of x for which making panels of w pays: sums over lanes, without them, cost short rows
  // more, where counting does not cost the most.
  if (w_bits == 2) return rows >= 32;
  if (!packed) return rows >= 8;
  return rows >= (columns <= 1024 && kernels.counts_bits ? 3 : 5);
}

BitProductScratch bit_product_scratch(std::int64_t rows, std::int64_t outputs, std::int64_t columns,
                                      int x_bits, int w_bits, int threads) {
  const PanelSizes sizes(packed_kernels(choose_isa()).xor_columns, outputs, columns, w_bits);
  return {rows * x_bits * sign_row_bytes(columns), sizes.bytes(sizes.count, threads)};
}

// Many rows of x are split among threads, and all panels pass by each tile of them, so that rows of
// y fill from left to right. Else panels are split, each packed just before its use.
void multiply_bits(const BitProductContext& context, const ProductOutput& out,
                   const QuantizedRows& x, int x_bits, const BitWeights& w) {
  const int threads = context.threads;
  Product p{out, x, x_bits, w, packed_kernels(context.isa)};
  pack_inputs(p, context.workspace, threads);
  const std::int64_t tiles = divide_up(p.m(), p.tile_rows());
  const std::int64_t rows = divide_up(p.m(), tiles);
  const bool splits_rows = tiles >= 4 * threads;
  const PanelSizes sizes(p.kernels.xor_columns, p.n(), p.k(), w.bits);
  const Panels panels(p, sizes, context.workspace, splits_rows ? sizes.count : 0, threads);
  if (splits_rows) {
    parallel_for(threads, sizes.count, divide_up(1 << 20, rows * p.k()),
                 [&](std::int64_t begin, std::int64_t end, int thread) {
                   for (std::int64_t c = begin; c < end; ++c)
                     panels.pack(panels.shared(c), c, thread);
                 });
  }
  const std::int64_t parts = splits_rows ? tiles : sizes.count;
  const std::int64_t grain =
      divide_up(4 * kProductsPerThread * parts, p.x_planes * w.bits * p.m() * p.n() * p.k());
  parallel_for(threads, parts, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
    if (splits_rows) {
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t c = 0; c < sizes.count; ++c) {
          panels.multiply(panels.shared(c), c, t * rows, rows);
          out.wrote({t * rows, std::min((t + 1) * rows, p.m())},
                    {c * sizes.width, std::min((c + 1) * sizes.width, p.n())});
        }
      }
      return;
    }
    for (std::int64_t c = begin; c < end; ++c) {
      panels.pack(panels.own(thread), c, thread);
      for (std::int64_t t = 0; t < tiles; ++t)
        panels.multiply(panels.own(thread), c, t * rows, rows);
    }
  });
  if (!splits_rows) out.wrote_all(threads);
}

}  // namespace quest
