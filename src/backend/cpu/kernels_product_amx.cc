// The integer product on AMX tiles: the codes of both sides are signed bytes, as TDPBSSD takes
// them, so those of x are read where they lie.
#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/simd16_avx512.h"
#include "backend/cpu/transpose_avx512.h"

namespace quest {
namespace {

// --- Packing ---

void pack_row(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns) {
  __builtin_memcpy(out, codes, static_cast<std::size_t>(columns));
  for (std::int64_t k = columns; k % kTileBytes != 0; ++k) out[k] = 0;
}

/// A group of 64 values is two tiles, of 16 columns each: row i holds the values 4 i .. 4 i + 3 of
/// every column.
void pack_panel(std::uint8_t* panel, const std::int8_t* codes, std::int64_t stride,
                std::int64_t rows, std::int64_t columns) {
  for (std::int64_t k = 0; k < columns; k += kTileBytes) {
    const std::int64_t left = columns - k;
    const __mmask64 valid = left >= kTileBytes ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    for (std::int64_t half = 0; half < 2; ++half, panel += kTileSize) {
      __m512i block[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const std::int64_t j = 16 * half + i;
        const std::int8_t* const row = codes + (j < rows ? j : 0) * stride + k;
        block[i] = _mm512_maskz_loadu_epi8(j < rows ? valid : __mmask64{0}, row);
      }
      transpose16(block);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_si512(panel + kTileBytes * i, block[i]);
    }
  }
}

// --- The end of a tile ---

/// Rows of sums of code products that wait to become floats.
template <bool bf16, bool add_to>
class PendingRows {
 public:
  explicit PendingRows(const ProductStrip& strip)
      : strip_(strip), valid_(first_lanes(strip.columns)) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      biases_[v] = _mm512_loadu_si512(strip.w_biases + 16 * v);
      scales_[v] = load16(strip.w_scales + 16 * v);
    }
  }

  /// `sums` [count][32] belong to the rows from `first` on.
  void set(const std::int32_t* sums, std::int64_t first, std::int64_t count) {
    sums_ = sums;
    row_ = first;
    end_ = first + count;
  }
  std::int64_t count() const { return end_ - row_; }

  /// Finishes the next row: T = 4 D + 2 sum qx + (2 sum qw + K), modulo 2^32; T itself fits.
  void finish_one() {
    const __m512i x_bias = _mm512_set1_epi32(2 * strip_.x_sums[row_]);
    const F16 step = splat16(strip_.x_steps[row_]);
    F16 values[2];
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const __m512i sum = _mm512_slli_epi32(_mm512_load_si512(sums_ + 16 * v), 2);
      const __m512i total = _mm512_add_epi32(sum, _mm512_add_epi32(biases_[v], x_bias));
      values[v] = mul({_mm512_cvtepi32_ps(total)}, mul(step, scales_[v]));
    }
    const std::int64_t at = row_ * strip_.y_stride;
    put(at, values[0], values[1]);
    sums_ += kPanelColumns;
    ++row_;
    const std::int64_t ahead = row_ + kRowsAhead;
    if (ahead < strip_.rows) fetch_to_write(strip_.y, ahead * strip_.y_stride);
  }

 private:
  void put(std::int64_t at, F16 low, F16 high) const {
    const auto valid_low = static_cast<__mmask16>(valid_);
    const auto valid_high = static_cast<__mmask16>(valid_ >> 16);
    if constexpr (bf16) {
      auto* const y = static_cast<std::uint16_t*>(strip_.y.data) + at;
      if constexpr (add_to) {
        low = add(widened(_mm256_maskz_loadu_epi16(valid_low, y)), low);
        high = add(widened(_mm256_maskz_loadu_epi16(valid_high, y + 16)), high);
      }
      _mm512_mask_storeu_epi16(y, valid_, bf16_bits(low, high));
    } else {
      float* const y = static_cast<float*>(strip_.y.data) + at;
      if constexpr (add_to) {
        low = add({_mm512_maskz_loadu_ps(valid_low, y)}, low);
        high = add({_mm512_maskz_loadu_ps(valid_high, y + 16)}, high);
      }
      _mm512_mask_storeu_ps(y, valid_low, low.v);
      _mm512_mask_storeu_ps(y + 16, valid_high, high.v);
    }
  }

  const ProductStrip& strip_;
  __mmask32 valid_;
  __m512i biases_[2];
  F16 scales_[2];
  const std::int32_t* sums_ = nullptr;
  std::int64_t row_ = 0;
  std::int64_t end_ = 0;
};

/// While the tile unit multiplies one tile's rows, the vector units finish the sums of the tile
/// before, a few rows a step.
template <bool bf16, bool add_to>
void run_strip(const ProductStrip& strip) {
  alignas(64) std::int32_t sums[2][kStripRows * kPanelColumns];
  PendingRows<bf16, add_to> pending(strip);
  const std::int64_t stride = strip.x_row_bytes;
  int turn = 0;
  for (std::int64_t first = 0; first < strip.rows; first += kStripRows, turn ^= 1) {
    const std::int64_t left = strip.rows - first;
    const std::uint8_t* upper = strip.x + first * stride;
    // Where there is no second tile of rows, the first is multiplied twice.
    const std::uint8_t* lower = left > kTileRows ? upper + kTileRows * stride : upper;
    if (first == 0 || left < kStripRows) configure_tiles(left < kStripRows ? left : kStripRows);
    zero_sums();
    const std::uint8_t* w = strip.panel;
    std::int64_t due = 0;
    for (std::int64_t g = 0; g < strip.groups; ++g) {
      _tile_loadd(4, upper, stride);
      _tile_loadd(6, w, kTileBytes);
      _tile_dpbssd(0, 4, 6);
      _tile_loadd(7, w + kTileSize, kTileBytes);
      _tile_dpbssd(1, 4, 7);
      _tile_loadd(5, lower, stride);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
      upper += kTileBytes;
      lower += kTileBytes;
      w += 2 * kTileSize;
      fetch_sums(sums[turn], strip.groups - 1 - g);
      for (due += kStripRows; due >= strip.groups; due -= strip.groups) {
        if (pending.count() > 0) pending.finish_one();
      }
    }
    store_sums(sums[turn]);
    pending.set(sums[turn], first, left < kStripRows ? left : kStripRows);
  }
  while (pending.count() > 0) pending.finish_one();
  _tile_release();
}

void strip(const ProductStrip& strip) {
  if (strip.y.bf16) return strip.add ? run_strip<true, true>(strip) : run_strip<true, false>(strip);
  return strip.add ? run_strip<false, true>(strip) : run_strip<false, false>(strip);
}

}  // namespace

const ProductKernels kProductAmx = {
    .tile_rows = kStripRows,
    .panel_columns = kPanelColumns,
    .group_values = kTileBytes,
    .group_bytes = kTileBytes,
    .row_block_bytes = 1 << 20,
    .reads_codes = true,
    .pack_panel = pack_panel,
    .pack_row = pack_row,
    .pack_integers = pack_row,
    .strip = strip,
    .pack_dot_row = nullptr,
    .dot_tile = nullptr,
};

}  // namespace quest
