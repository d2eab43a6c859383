// Products of bf16 on AMX tiles, whose second operand is expanded from codes on the way into its
// panel: the two gradients of the integer product.
#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/simd16_avx512.h"
#include "backend/cpu/transpose_avx512.h"

namespace quest {
namespace {

// --- Packing ---

/// (codes + 1/2) step, whose only rounding is that of the product.
inline __m512 levels(__m128i codes, float step) {
  const __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
  return _mm512_fmadd_ps(q, _mm512_set1_ps(step), _mm512_set1_ps(0.5f * step));
}

/// Row i of a tile holds the summed rows 2 i and 2 i + 1 of every column, next to each other.
void pack_codes(std::uint8_t* group, const std::int8_t* codes, std::int64_t stride,
                const float* steps, std::int64_t rows, std::int64_t columns) {
  alignas(64) static constexpr std::uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(kInterleave);
  for (std::int64_t i = 0; i < kTileRows; ++i, group += kTileBytes) {
    for (std::int64_t half = 0; half < 2; ++half) {
      const std::int64_t left = columns - 16 * half;
      const __mmask16 valid = static_cast<__mmask16>(first_lanes(left < 0    ? 0
                                                                 : left > 16 ? 16
                                                                             : left));
      __m512 values[2];
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; ++odd) {
        const std::int64_t r = 2 * i + odd;
        if (r < rows) {
          const __m128i q = _mm_maskz_loadu_epi8(valid, codes + r * stride + 16 * half);
          values[odd] = _mm512_maskz_mov_ps(valid, levels(q, steps[r]));
        } else {
          values[odd] = _mm512_setzero_ps();
        }
      }
      const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(values[1], values[0]));
      _mm512_store_si512(group + half * kTileSize, _mm512_permutexvar_epi16(interleave, both));
    }
  }
}

void pack_transposed(std::uint8_t* upper, std::uint8_t* lower, const std::uint16_t* x,
                     std::int64_t stride, std::int64_t rows, std::int64_t columns) {
  const __mmask32 valid = first_lanes(columns);
  // Pairs of rows as dwords; unpacking takes columns 0..3 of every 8 into one, 4..7 into the other.
  __m512i low[16], high[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    const __mmask32 even = 2 * i < rows ? valid : __mmask32{0};
    const __mmask32 odd = 2 * i + 1 < rows ? valid : __mmask32{0};
    const __m512i a = _mm512_maskz_loadu_epi16(even, x + (even != 0 ? 2 * i * stride : 0));
    const __m512i b = _mm512_maskz_loadu_epi16(odd, x + (odd != 0 ? (2 * i + 1) * stride : 0));
    low[i] = _mm512_unpacklo_epi16(a, b);
    high[i] = _mm512_unpackhi_epi16(a, b);
  }
  transpose16(low);
  transpose16(high);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    std::uint8_t* const tile = i < 8 ? upper : lower;
    const int row = i % 8 / 4 * 8 + i % 4;
    _mm512_store_si512(tile + kTileBytes * row, low[i]);
    _mm512_store_si512(tile + kTileBytes * (row + 4), high[i]);
  }
}

// --- The product ---

/// Rows of sums that wait to be written.
template <bool bf16>
class PendingRows {
 public:
  explicit PendingRows(const Bf16Strip& strip)
      : strip_(strip), valid_(first_lanes(strip.columns)) {}

  /// `sums` [count][32] belong to the rows from `first` on.
  void set(const float* sums, std::int64_t first, std::int64_t count) {
    sums_ = sums;
    row_ = first;
    end_ = first + count;
  }
  std::int64_t count() const { return end_ - row_; }

  void finish_one() {
    const auto valid_low = static_cast<__mmask16>(valid_);
    const auto valid_high = static_cast<__mmask16>(valid_ >> 16);
    F16 low = load16(sums_);
    F16 high = load16(sums_ + 16);
    if (strip_.partial != nullptr) {
      const float* const partial = strip_.partial + row_ * strip_.partial_stride;
      low = add(low, {_mm512_maskz_loadu_ps(valid_low, partial)});
      high = add(high, {_mm512_maskz_loadu_ps(valid_high, partial + 16)});
    }
    const std::int64_t at = row_ * strip_.out_stride;
    if constexpr (bf16) {
      auto* const out = static_cast<std::uint16_t*>(strip_.out.data) + at;
      if (strip_.add) {
        low = add(widened(_mm256_maskz_loadu_epi16(valid_low, out)), low);
        high = add(widened(_mm256_maskz_loadu_epi16(valid_high, out + 16)), high);
      }
      _mm512_mask_storeu_epi16(out, valid_, bf16_bits(low, high));
    } else {
      float* const out = static_cast<float*>(strip_.out.data) + at;
      if (strip_.add) {
        low = add({_mm512_maskz_loadu_ps(valid_low, out)}, low);
        high = add({_mm512_maskz_loadu_ps(valid_high, out + 16)}, high);
      }
      _mm512_mask_storeu_ps(out, valid_low, low.v);
      _mm512_mask_storeu_ps(out + 16, valid_high, high.v);
    }
    sums_ += kPanelColumns;
    ++row_;
    const std::int64_t ahead = row_ + kRowsAhead;
    if (ahead < strip_.rows) fetch_to_write(strip_.out, ahead * strip_.out_stride);
  }

 private:
  const Bf16Strip& strip_;
  __mmask32 valid_;
  const float* sums_ = nullptr;
  std::int64_t row_ = 0;
  std::int64_t end_ = 0;
};

/// While the tile unit multiplies, the vector units write the sums of the tiles before.
template <bool bf16>
void run_strip(const Bf16Strip& strip) {
  alignas(64) float sums[2][kStripRows * kPanelColumns];
  PendingRows<bf16> pending(strip);
  int turn = 0;
  const std::int64_t row_bytes = strip.a_row_bytes;
  for (std::int64_t first = 0; first < strip.rows; first += kStripRows, turn ^= 1) {
    const std::int64_t left = strip.rows - first;
    if (first == 0 || left < kStripRows) configure_tiles(left < kStripRows ? left : kStripRows);
    zero_sums();
    const std::uint8_t* upper = strip.a + first / kTileRows * strip.a_tile_bytes;
    const std::uint8_t* lower = left > kTileRows ? upper + strip.a_tile_bytes : upper;
    const std::uint8_t* b = strip.panel;
    std::int64_t due = 0;
    for (std::int64_t g = 0; g < strip.groups; ++g) {
      _tile_loadd(4, upper, row_bytes);
      _tile_loadd(6, b, kTileBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + kTileSize, kTileBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, lower, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      upper += strip.a_group_bytes;
      lower += strip.a_group_bytes;
      b += 2 * kTileSize;
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

void strip(const Bf16Strip& strip) {
  if (strip.out.bf16) return run_strip<true>(strip);
  run_strip<false>(strip);
}

}  // namespace

const Bf16Kernels kBf16ProductAmx = {
    .pack_codes = pack_codes,
    .pack_transposed = pack_transposed,
    .strip = strip,
};

}  // namespace quest
