// Products of rows of few bits by xor and counting, a plane of bits at a time.
#include "backend/cpu/bit_product.h"

#include <algorithm>

#include "backend/cpu/packed_dots.h"
#include "backend/cpu/packed_kernels.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quant_kernels.h"

namespace quest {
namespace {

using Slot = Workspace::Slot;

/// Pairs of planes up to which bits are faster than bytes, measured at rows of 1,024 values and
/// more (docs/log.md): AMD's cores count the bits of two vectors a cycle, so that xor and count
/// reaches 5.3 times VNNI's rate, Intel's of one, 2.9 times.
int most_planes() {
#if defined(__x86_64__)
  if (__builtin_cpu_is("amd") != 0) return 4;
#endif
  return 2;
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
  Tensor y;
  const QuantizedRows& x;
  int x_planes;
  const BitWeights& w;
  Write write;
  const PackedKernels& kernels;
  const std::uint8_t* x_rows = nullptr;  ///< [M][x_planes][row_bytes()]

  std::int64_t m() const { return x.codes.rows(); }
  std::int64_t n() const { return w.codes.rows(); }
  std::int64_t k() const { return x.codes.cols(); }
  std::int64_t row_bytes() const { return sign_row_bytes(k()); }
  std::int64_t tile_rows() const { return kernels.xor_rows / x_planes; }
};

void pack_inputs(Product& p, Workspace& workspace, int threads) {
  const std::int64_t bytes = p.x_planes * p.row_bytes();
  auto* const rows = reinterpret_cast<std::uint8_t*>(
      workspace.bytes(Slot::kPackedInputs, static_cast<std::size_t>(p.m() * bytes)));
  p.x_rows = rows;
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 15) / p.k());
  parallel_for(threads, p.m(), grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      pack_planes(p.kernels, rows + i * bytes, p.row_bytes(), p.x.codes.row<std::int8_t>(i), p.k(),
                  p.x_planes);
    }
  });
}

/// Planes of w as panels, with the scales of their columns.
class Panels {
 public:
  /// Room for `held` panels, and for each thread to make them.
  Panels(const Product& p, Workspace& workspace, std::int64_t held, int threads)
      : p_(p),
        width_(p.kernels.xor_columns / p.w.bits),
        panel_bytes_(divide_up(p.k(), 32) * p.kernels.xor_columns * 4),
        bits_bytes_(p.kernels.xor_columns * p.row_bytes()),
        thread_bytes_(bits_bytes_ + round_up(p.k(), 64)) {
    const std::int64_t scales_bytes = round_up(4 * count() * width_ + 64, 64);
    panels_ = reinterpret_cast<std::uint8_t*>(workspace.bytes(
        Slot::kPackedSums,
        static_cast<std::size_t>(held * panel_bytes_ + scales_bytes + threads * thread_bytes_)));
    scales_ = reinterpret_cast<float*>(panels_ + held * panel_bytes_);
    scratch_ = panels_ + held * panel_bytes_ + scales_bytes;
    const float* const steps = p.w.steps.as<float>();
    for (std::int64_t j = 0; j < p.n(); ++j) scales_[j] = steps[j] * 0.25f;
    std::fill(scales_ + p.n(), scales_ + scales_bytes / 4, 0.0f);
  }
  std::int64_t count() const { return divide_up(p_.n(), width_); }

  void pack(std::int64_t place, std::int64_t panel, int thread) const {
    const std::int64_t first = panel * width_;
    const std::int64_t rows = std::min(width_, p_.n() - first);
    std::uint8_t* const out = panels_ + place * panel_bytes_;
    if (p_.w.packed() && p_.w.bits == 1) {  // the file's rows are planes
      const Tensor& codes = p_.w.codes;
      p_.kernels.pack_sign_panel(
          out, {codes.row<std::uint8_t>(first), codes.row_stride, rows, codes.cols()});
      return;
    }
    std::uint8_t* const bits = scratch_ + thread * thread_bytes_;
    auto* const unpacked = reinterpret_cast<std::int8_t*>(bits + bits_bytes_);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int8_t* codes = unpacked;
      if (p_.w.packed()) {
        p_.kernels.unpack_row(unpacked, p_.w.codes.row<std::uint8_t>(first + r), p_.k(), p_.w.bits);
      } else {
        codes = p_.w.codes.row<std::int8_t>(first + r);
      }
      pack_planes(p_.kernels, bits + r * p_.row_bytes(), width_ * p_.row_bytes(), codes, p_.k(),
                  p_.w.bits);
    }
    // Rows that do not exist become columns that nobody reads.
    const std::int64_t planes = (p_.w.bits - 1) * width_ + rows;
    p_.kernels.pack_sign_panel(out, {bits, p_.row_bytes(), planes, divide_up(p_.k(), 8)});
  }
  /// A tile of rows of x from `row` on against the panel, which lies at `place`.
  void multiply(std::int64_t place, std::int64_t panel, std::int64_t row) const {
    const std::int64_t j = panel * width_;
    XorTile tile{};
    tile.x = p_.x_rows + row * p_.x_planes * p_.row_bytes();
    tile.x_row_bytes = p_.row_bytes();
    tile.panel = panels_ + place * panel_bytes_;
    tile.groups = divide_up(p_.k(), 32);
    tile.planes = p_.x_planes;
    tile.w_planes = p_.w.bits;
    tile.rows = static_cast<std::int32_t>(std::min(p_.tile_rows(), p_.m() - row) * p_.x_planes);
    tile.columns = static_cast<std::int32_t>(std::min(width_, p_.n() - j));
    tile.k = static_cast<std::int32_t>(p_.k());
    tile.x_steps = p_.x.steps.as<float>() + row;
    tile.w_scales = scales_ + j;
    tile.bf16 = p_.y.dtype == DType::kBF16;
    tile.y = tile.bf16 ? static_cast<void*>(p_.y.row<BFloat16>(row) + j)
                       : static_cast<void*>(p_.y.row<float>(row) + j);
    tile.y_stride = p_.y.row_stride;
    tile.add = p_.write == Write::kAdd;
    p_.kernels.xor_tile(tile);
  }

 private:
  const Product& p_;
  std::int64_t width_;  ///< rows of w in a panel
  std::int64_t panel_bytes_, bits_bytes_, thread_bytes_;
  std::uint8_t* panels_;
  float* scales_;
  std::uint8_t* scratch_;
};

}  // namespace

bool bits_pay(Isa isa, int x_bits, int w_bits, std::int64_t rows, bool packed) {
  // Tiles of bytes are faster than bits.
  if (packed_kernels(isa).xor_tile == nullptr || quant_kernels(isa).tiles != nullptr) return false;
  if (w_bits > 2 || x_bits > 4 || x_bits * w_bits > most_planes()) return false;
  // Rows of x for which packing the panels of w pays.
  return rows >= (w_bits == 2 ? 32 : packed ? 5 : 8);
}

// Many rows of x are split among threads, and all panels pass by each tile of them, so that rows of
// y fill from left to right. Else panels are split, each packed just before its use.
void multiply_bits(const BitProductContext& context, Tensor y, const QuantizedRows& x, int x_bits,
                   const BitWeights& w, Write write) {
  const int threads = context.threads;
  Product p{y, x, x_bits, w, write, packed_kernels(context.isa)};
  pack_inputs(p, context.workspace, threads);
  const std::int64_t rows = p.tile_rows();
  const std::int64_t tiles = divide_up(p.m(), rows);
  const bool splits_rows = tiles >= 4 * threads;
  const std::int64_t panel_count = divide_up(p.n(), p.kernels.xor_columns / w.bits);
  const Panels panels(p, context.workspace, splits_rows ? panel_count : threads, threads);
  if (splits_rows) {
    parallel_for(threads, panels.count(), divide_up(1 << 20, rows * p.k()),
                 [&](std::int64_t begin, std::int64_t end, int thread) {
                   for (std::int64_t c = begin; c < end; ++c) panels.pack(c, c, thread);
                 });
  }
  const std::int64_t parts = splits_rows ? tiles : panels.count();
  const std::int64_t grain =
      divide_up(8 * kProductsPerThread * parts, p.x_planes * w.bits * p.m() * p.n() * p.k());
  parallel_for(threads, parts, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
    if (splits_rows) {
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t c = 0; c < panels.count(); ++c) panels.multiply(c, c, t * rows);
      }
      return;
    }
    for (std::int64_t c = begin; c < end; ++c) {
      panels.pack(thread, c, thread);
      for (std::int64_t t = 0; t < tiles; ++t) panels.multiply(thread, c, t * rows);
    }
  });
}

}  // namespace quest
