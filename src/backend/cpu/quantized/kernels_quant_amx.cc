// Rotation of bf16 rows on AMX tiles: the transform of 32 values is a product with a matrix of ones
// and minus ones, exact but for the rounding of its f32 sums, and leaves two of the seven stages of
// blocks of 128 to the vector units.
//
// Sixteen parts of 32 values lie in memory as a tile's rows, and the sums as the transformed row.
// Tiles take denormal values for 0 and round sums in another order than the vector kernels, so rows
// whose squares nearly vanish go to those.
#include <immintrin.h>

#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/simd/simd16_avx512.h"
// The shared text stands on the names of the header above.
#include "backend/cpu/quantized/rotate_rows.inc.h"
// Stands on both.
#include "backend/cpu/quantized/quantize_rows.inc.h"

namespace quest {
namespace {

constexpr std::int64_t kPart = 32;    // values that a tile product transforms
constexpr std::int64_t kBlock = 128;  // values of a whole transform
constexpr std::int64_t kTileValues = 16 * kPart;
constexpr int kVectors = kBlock / 16;

/// The operand of LDTILECFG: registers 0 and 1 hold the matrix, 2 sixteen parts and 3 and 4 their
/// sums, 5 the four parts of one block and 6 and 7 its sums.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 4, 4, 4};
};

/// Columns [0, 16) and [16, 32) of the transform of 32, in pairs of rows.
struct alignas(64) Matrix {
  std::uint16_t columns[2][16][16][2];
  constexpr Matrix() : columns{} {
    for (int k = 0; k < kPart; ++k) {
      for (int j = 0; j < kPart; ++j) {
        int ones = 0;
        for (int bits = k & j; bits != 0; bits &= bits - 1) ++ones;
        columns[j / 16][k / 2][j % 16][k % 2] = ones % 2 == 0 ? 0x3f80 : 0xbf80;
      }
    }
  }
};
constexpr Matrix kMatrix;

void begin() {
  const TileConfig config;
  asm volatile("ldtilecfg %0" : : "m"(config));
  _tile_loadd(0, kMatrix.columns[0], 64);
  _tile_loadd(1, kMatrix.columns[1], 64);
}

void end() { _tile_release(); }

/// z [512] = the transforms of 32 of x.
inline void transform_tile(float* z, const std::uint16_t* x) {
  _tile_loadd(2, x, 64);
  _tile_zero(3);
  _tile_zero(4);
  _tile_dpbf16ps(3, 2, 0);
  _tile_dpbf16ps(4, 2, 1);
  _tile_stored(3, z, 4 * kPart);
  _tile_stored(4, z + 16, 4 * kPart);
}
/// The same for one block of 128.
inline void transform_block(float* z, const std::uint16_t* x) {
  _tile_loadd(5, x, 64);
  _tile_zero(6);
  _tile_zero(7);
  _tile_dpbf16ps(6, 5, 0);
  _tile_dpbf16ps(7, 5, 1);
  _tile_stored(6, z, 4 * kPart);
  _tile_stored(7, z + 16, 4 * kPart);
}

/// The stages that remain, on a block's z.
inline void finish_block(const float* from, F16 (&z)[kVectors]) {
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) z[i] = load16(from + 16 * i);
#pragma GCC unroll 2
  for (int half = 2; half < kVectors; half *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      if ((i & half) != 0) continue;
      const F16 sum = add(z[i], z[i + half]);
      z[i + half] = sub(z[i], z[i + half]);
      z[i] = sum;
    }
  }
}

/// Sum of squares of a multiple of 128 values: f32 over up to 1024, f64 over these.
double sum_of_squares(const std::uint16_t* x, std::int64_t columns) {
  D16 total = zero_d16();
  for (std::int64_t k = 0; k < columns;) {
    __m512 sums[4] = {};
    for (const std::int64_t stop = k + 1024; k < columns && k < stop; k += kBlock) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const auto values = (__m512bh)_mm512_loadu_si512(x + k + i * kPart);
        sums[i] = _mm512_dpbf16_ps(sums[i], values, values);
      }
    }
    total = add(total,
                {_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]))});
  }
  return _mm512_reduce_add_pd(_mm512_add_pd(total.lo, total.hi));
}

Rotated rotate_for_codes_amx(const RowCodes& to, FloatRow x, const RowRule& rule) {
  constexpr double kNearlyNothing = 0x1p-100;  // tiles lose values below 2^-126
  if (!x.bf16 || rule.block != kBlock) return rotate_for_codes(to, x, rule);
  const auto* const values = static_cast<const std::uint16_t*>(x.data);
  std::int64_t k = 0;
  for (; k + kTileValues <= rule.columns; k += kTileValues) {
    transform_tile(to.rotated + k, values + k);
  }
  for (; k < rule.columns; k += kBlock) transform_block(to.rotated + k, values + k);
  asm volatile("" ::: "memory");  // tiles are stored behind the compiler's back
  const double square_sum = sum_of_squares(values, rule.columns);
  if (square_sum < kNearlyNothing) return rotate_for_codes(to, x, rule);
  return {rms_of(square_sum, rule), RotatedAs::kHalf};
}

template <MaskBy kMask>
void make_codes_amx(const RowCodes& to, const RowRule& rule, const CodeScale& scale) {
  CodeMaker maker(rule.min_code, rule.max_code);
  for (std::int64_t k = 0; k < rule.columns; k += kBlock) {
    F16 z[kVectors];
    finish_block(to.rotated + k, z);
    F16 low[4] = {z[0], z[1], z[2], z[3]}, high[4] = {z[4], z[5], z[6], z[7]};
    make_64_codes<kMask>(to, maker, scale, k, 64, low);
    make_64_codes<kMask>(to, maker, scale, k + 64, 64, high);
  }
  *to.code_sum = maker.sum();
}

void codes_of_rotated_amx(const RowCodes& to, const RowRule& rule, const CodeScale& scale) {
  if (scale.rotated_as == RotatedAs::kWhole) return codes_of_rotated(to, rule, scale);
  make_by_mask(to, rule, scale.mask_by,
               [&]<MaskBy kMask>() { make_codes_amx<kMask>(to, rule, scale); });
}

/// out [128] = (or +=, where kAdd) the finished block of z, as bf16; denormal values become 0.
template <bool kAdd>
inline void write_block(std::uint16_t* out, const float* from, F16 scale) {
  F16 z[kVectors];
  finish_block(from, z);
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; i += 2) {
    F16 low = mul(z[i], scale), high = mul(z[i + 1], scale);
    if constexpr (kAdd) {
      low = add(load16_bf16(out + 16 * i), low);
      high = add(load16_bf16(out + 16 * i + 16), high);
    }
    _mm512_storeu_si512(out + 16 * i,
                        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.v, low.v)));
  }
}

/// masked [count] = x where the mask has a bit; a multiple of 32 values.
inline void apply_mask(std::uint16_t* masked, const std::uint16_t* x, const std::uint8_t* mask,
                       std::int64_t count) {
  for (std::int64_t k = 0; k < count; k += kPart) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, mask + k / 8, sizeof bits);
    _mm512_store_si512(masked + k, _mm512_maskz_loadu_epi16(bits, x + k));
  }
}

template <bool kAdd>
void rotate_bf16(std::uint16_t* out, float* scratch, const std::uint16_t* x,
                 const std::uint8_t* mask, std::int64_t columns) {
  alignas(64) std::uint16_t masked[2][kTileValues];
  const F16 scale = splat16(static_cast<float>(block_scale(kBlock)));
  // The vector units finish a tile's values while the tile unit has the next ones.
  std::int64_t written = 0;
  int turn = 0;
  for (std::int64_t k = 0; k < columns;) {
    const std::int64_t count = columns - k >= kTileValues ? kTileValues : kBlock;
    const std::uint16_t* values = x + k;
    if (mask != nullptr) {
      std::uint16_t* const to = masked[turn ^= 1];
      apply_mask(to, values, mask + k / 8, count);
      values = to;
    }
    asm volatile("" ::: "memory");  // tiles are loaded and stored behind the compiler's back
    if (count == kTileValues) {
      transform_tile(scratch + k, values);
    } else {
      transform_block(scratch + k, values);
    }
    for (; written < k; written += kBlock) {
      write_block<kAdd>(out + written, scratch + written, scale);
    }
    k += count;
  }
  asm volatile("" ::: "memory");
  for (; written < columns; written += kBlock) {
    write_block<kAdd>(out + written, scratch + written, scale);
  }
}

void rotate_row_amx(const RotatedRow& to, FloatRow d_z, const std::uint8_t* mask,
                    std::int64_t columns, std::int64_t block) {
  if (!d_z.bf16 || !to.out.bf16 || block != kBlock) {
    return rotate_row(to, d_z, mask, columns, block);
  }
  auto* const out = static_cast<std::uint16_t*>(to.out.data);
  const auto* const x = static_cast<const std::uint16_t*>(d_z.data);
  if (to.add) return rotate_bf16<true>(out, to.scratch, x, mask, columns);
  rotate_bf16<false>(out, to.scratch, x, mask, columns);
}

}  // namespace

const RowKernels kRowKernelsAmx = {
    .begin = begin,
    .end = end,
    .rotate_for_codes = rotate_for_codes_amx,
    .code_scale = code_scale,
    .codes_of_rotated = codes_of_rotated_amx,
    .rotate_row = rotate_row_amx,
};

}  // namespace quest
