// The integer product on bytes with VNNI: w offset to unsigned (q + 128), x signed, so that the
// codes of x are read where they lie; the offset is taken out again through the code sums of x.

namespace quest {
namespace {

constexpr int kVnniTileRows = 12;
constexpr int kVnniColumns = 32;

void pack_vnni_row(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns) {
  __builtin_memcpy(out, codes, static_cast<std::size_t>(columns));
  for (std::int64_t k = columns; k % 4 != 0; ++k) out[k] = 0;
}

/// 64 values of 16 rows, of which `rows` and `left` exist, as groups 128 bytes apart. Codes become
/// unsigned; zeros where there is no row or no column.
template <bool whole>
inline void pack_vnni_block(std::uint8_t* out, const std::int8_t* codes, std::int64_t stride,
                            std::int64_t rows, std::int64_t left) {
  const __m512i offset = _mm512_set1_epi8(-128);
  const __mmask64 valid = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
  __m512i block[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if constexpr (whole) {
      block[i] = _mm512_xor_si512(_mm512_loadu_si512(codes + i * stride), offset);
    } else {
      const __mmask64 load = i < rows ? valid : __mmask64{0};
      const __m512i loaded = _mm512_maskz_loadu_epi8(load, codes + (i < rows ? i : 0) * stride);
      block[i] = _mm512_xor_si512(loaded, _mm512_maskz_mov_epi8(load, offset));
    }
  }
  transpose16(block);
  const std::int64_t groups = (left + 3) / 4;
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (whole || i < groups) _mm512_storeu_si512(out + i * 128, block[i]);
  }
}

void pack_vnni_panel(std::uint8_t* panel, const std::int8_t* codes, std::int64_t stride,
                     std::int64_t rows, std::int64_t columns) {
  for (std::int64_t half = 0; half < 2; ++half) {
    const std::int64_t left_rows = rows - 16 * half;
    const std::int8_t* const first = codes + (left_rows > 0 ? 16 * half * stride : 0);
    for (std::int64_t k = 0; k < columns; k += 64) {
      std::uint8_t* const out = panel + k / 4 * 128 + 64 * half;
      const std::int64_t left = columns - k;
      left_rows >= 16 && left >= 64
          ? pack_vnni_block<true>(out, first + k, stride, 16, 64)
          : pack_vnni_block<false>(out, first + k, stride, left_rows, left);
    }
  }
}

void pack_vnni_panel_of_columns(std::uint8_t* panel, const std::int8_t* codes, std::int64_t stride,
                                std::int64_t rows, std::int64_t columns) {
  const auto valid = static_cast<__mmask32>(columns >= kVnniColumns ? ~0u : (1u << columns) - 1);
  const __m256i offset = _mm256_maskz_mov_epi8(valid, _mm256_set1_epi8(-128));
  for (std::int64_t k = 0; k < rows; k += 4, panel += 4 * kVnniColumns) {
    const auto row = [&](std::int64_t i) {
      if (k + i >= rows) return _mm256_setzero_si256();
      const __m256i loaded = _mm256_maskz_loadu_epi8(valid, codes + (k + i) * stride);
      return _mm256_xor_si256(loaded, offset);
    };
    const __m256i a = row(0), b = row(1), c = row(2), d = row(3);
    const __m256i ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
    const __m256i cd_low = _mm256_unpacklo_epi8(c, d), cd_high = _mm256_unpackhi_epi8(c, d);
    // Four columns in each 128 bits: of the first 16, and of the last.
    const __m256i first = _mm256_unpacklo_epi16(ab_low, cd_low);
    const __m256i second = _mm256_unpackhi_epi16(ab_low, cd_low);
    const __m256i third = _mm256_unpacklo_epi16(ab_high, cd_high);
    const __m256i fourth = _mm256_unpackhi_epi16(ab_high, cd_high);
    auto* const out = reinterpret_cast<__m256i*>(panel);
    _mm256_storeu_si256(out, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(third, fourth, 0x20));
    _mm256_storeu_si256(out + 2, _mm256_permute2x128_si256(first, second, 0x31));
    _mm256_storeu_si256(out + 3, _mm256_permute2x128_si256(third, fourth, 0x31));
  }
}

/// The same 4 bytes in every lane.
inline __m512i splat_group(const std::uint8_t* p) {
  std::int32_t group;
  __builtin_memcpy(&group, p, sizeof group);
  return _mm512_set1_epi32(group);
}

// The accumulators are written out, a pair a row: g++ 12 keeps arrays of them in memory, or copies
// them around every vpdpbusd.
#define QUEST_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

/// The integers T of a row of x, from D = sum (qw + 128) qx:
/// T = 4 sum qx qw + 2 sum qx + 2 sum qw + K = 4 D - 510 sum qx + w_bias with
/// w_bias = 2 sum qw + K, modulo 2^32; T itself fits.
inline __attribute__((always_inline)) __m512i integers_of(__m512i sums, __m512i w_bias,
                                                          std::int32_t x_sum) {
  const __m512i x_bias = _mm512_set1_epi32(-510 * x_sum);
  return _mm512_add_epi32(_mm512_slli_epi32(sums, 2), _mm512_add_epi32(w_bias, x_bias));
}

/// The end of a tile of all rows and columns, from registers: half the time of finish_tile.
template <bool bf16, bool add_to>
struct WholeEnd {
  const ProductStrip& tile;
  __m512i bias_low, bias_high;
  F16 low_scales, high_scales;

  inline __attribute__((always_inline)) void put(std::int64_t row, __m512i low_sums,
                                                 __m512i high_sums) const {
    const F16 step = splat16(tile.x_steps[row]);
    const auto finished = [&](__m512i sums, __m512i bias, F16 scales)
        __attribute__((always_inline)) {
      const __m512i integers = integers_of(sums, bias, tile.x_sums[row]);
      return scaled(F16{_mm512_cvtepi32_ps(integers)}, step, scales);
    };
    const F16 low = finished(low_sums, bias_low, low_scales);
    const F16 high = finished(high_sums, bias_high, high_scales);
    if constexpr (bf16) {
      auto* const out = static_cast<std::uint16_t*>(tile.y.data) + row * tile.y_stride;
      _mm512_storeu_si512(
          out, bf16_bits(put_value(out, low, add_to), put_value(out + 16, high, add_to)));
    } else {
      auto* const out = static_cast<float*>(tile.y.data) + row * tile.y_stride;
      store16(out, put_value(out, low, add_to));
      store16(out + 16, put_value(out + 16, high, add_to));
    }
  }
};

/// `End` is WholeEnd for tiles of all rows and columns, else void.
template <int rows, typename End>
void vnni_tile_rows(const ProductStrip& tile) {
  constexpr bool whole = !__is_same(End, void);
  static_assert(!whole || rows == kVnniTileRows);
#define QUEST_DECLARE(r) __m512i low##r = _mm512_setzero_si512(), high##r = _mm512_setzero_si512();
  QUEST_EACH_ROW(QUEST_DECLARE)
#undef QUEST_DECLARE
  const std::int64_t stride = tile.x_row_bytes;
  const RowAddresses x(tile.x, stride);
  const std::uint8_t* w = tile.panel;
#define QUEST_MULTIPLY(r)                                             \
  if constexpr (rows > r) {                                           \
    const __m512i group = splat_group(x.row<r>(stride) + at + 4 * g); \
    dot_bytes(low##r, w_low, group);                                  \
    dot_bytes(high##r, w_high, group);                                \
  }
  const auto add_groups = [&]<int count>(std::int64_t at) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int g = 0; g < count; ++g, w += 128) {
      const __m512i w_low = _mm512_loadu_si512(w);
      const __m512i w_high = _mm512_loadu_si512(w + 64);
      QUEST_EACH_ROW(QUEST_MULTIPLY)
    }
  };
#undef QUEST_MULTIPLY
  const std::int64_t bytes = 4 * tile.groups;
  std::int64_t at = 0;
  // A row of y is asked for each turn: all at once would hold up the reading of w and x.
  for (std::int64_t r = bytes / 16; r < rows; ++r) fetch_to_write(tile.y, r * tile.y_stride);
  // Counting takes ports that multiply: four groups a turn.
  for (std::int64_t r = 0; at + 16 <= bytes; at += 16, ++r) {
    if (r < rows) fetch_to_write(tile.y, r * tile.y_stride);
    add_groups.template operator()<4>(at);
  }
  for (; at < bytes; at += 4) add_groups.template operator()<1>(at);
  const __m512i bias_low = _mm512_loadu_si512(tile.w_biases);
  const __m512i bias_high = _mm512_loadu_si512(tile.w_biases + 16);
  if constexpr (whole) {
#define QUEST_PUT(r) end.put(r, low##r, high##r);
    const End end{tile, bias_low, bias_high, load16(tile.w_scales), load16(tile.w_scales + 16)};
    QUEST_EACH_ROW(QUEST_PUT)
#undef QUEST_PUT
    return;
  }
  alignas(64) std::int32_t integers[rows * kVnniColumns];
#define QUEST_FINISH(r)                                                   \
  if constexpr (rows > r) {                                               \
    const std::int32_t x_sum = tile.x_sums[r];                            \
    std::int32_t* const row = integers + r * kVnniColumns;                \
    _mm512_store_si512(row, integers_of(low##r, bias_low, x_sum));        \
    _mm512_store_si512(row + 16, integers_of(high##r, bias_high, x_sum)); \
  }
  QUEST_EACH_ROW(QUEST_FINISH)
#undef QUEST_FINISH
  finish_tile(tile, integers, kVnniColumns);
}
#undef QUEST_EACH_ROW

template <int rows = kVnniTileRows>
void vnni_tile_part(const ProductStrip& tile) {
  if constexpr (rows > 1) {
    if (tile.rows < rows) return vnni_tile_part<rows - 1>(tile);
  }
  vnni_tile_rows<rows, void>(tile);
}

template <typename End>
void vnni_tile(const ProductStrip& tile) {
  tile.rows == kVnniTileRows ? vnni_tile_rows<kVnniTileRows, End>(tile) : vnni_tile_part(tile);
}

void vnni_strip(const ProductStrip& strip) {
  constexpr int kRows = kVnniTileRows;
  if (strip.columns < kVnniColumns) return for_each_tile<kRows>(strip, vnni_tile_part<kRows>);
  if (strip.y.bf16) {
    return for_each_tile<kRows>(
        strip, strip.add ? vnni_tile<WholeEnd<true, true>> : vnni_tile<WholeEnd<true, false>>);
  }
  for_each_tile<kRows>(
      strip, strip.add ? vnni_tile<WholeEnd<false, true>> : vnni_tile<WholeEnd<false, false>>);
}

// --- A few rows of x against rows of w ---

void pack_dot_row(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns) {
  std::int64_t k = 0;
  for (; k < columns; ++k) out[k] = static_cast<std::uint8_t>(codes[k] + 128);
  for (; k % 64 != 0; ++k) out[k] = 0;
}

#define QUEST_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3)

template <int rows>
void dot_tile_rows(const DotTile& tile) {
#define QUEST_DECLARE(r)                                                          \
  __m512i sum##r##0 = _mm512_setzero_si512(), sum##r##1 = _mm512_setzero_si512(), \
          sum##r##2 = _mm512_setzero_si512(), sum##r##3 = _mm512_setzero_si512();
  QUEST_EACH_ROW(QUEST_DECLARE)
#undef QUEST_DECLARE
  // Columns that do not exist repeat the last one.
  const auto w_row = [&](int j) {
    return tile.w + (j < tile.columns ? j : tile.columns - 1) * tile.w_row_bytes;
  };
  const std::int8_t* const row0 = w_row(0);
  const std::int8_t* const row1 = w_row(1);
  const std::int8_t* const row2 = w_row(2);
  const std::int8_t* const row3 = w_row(3);
#define QUEST_MULTIPLY(r)                                                    \
  if constexpr (rows > r) {                                                  \
    const __m512i x = _mm512_loadu_si512(tile.x + r * tile.x_row_bytes + k); \
    dot_bytes(sum##r##0, x, w0);                                             \
    dot_bytes(sum##r##1, x, w1);                                             \
    dot_bytes(sum##r##2, x, w2);                                             \
    dot_bytes(sum##r##3, x, w3);                                             \
  }
  std::int64_t k = 0;
  for (; k + 64 <= tile.k; k += 64) {
    const __m512i w0 = _mm512_loadu_si512(row0 + k), w1 = _mm512_loadu_si512(row1 + k);
    const __m512i w2 = _mm512_loadu_si512(row2 + k), w3 = _mm512_loadu_si512(row3 + k);
    QUEST_EACH_ROW(QUEST_MULTIPLY)
  }
  if (k < tile.k) {
    const __mmask64 valid = (__mmask64{1} << (tile.k - k)) - 1;
    const __m512i w0 = _mm512_maskz_loadu_epi8(valid, row0 + k);
    const __m512i w1 = _mm512_maskz_loadu_epi8(valid, row1 + k);
    const __m512i w2 = _mm512_maskz_loadu_epi8(valid, row2 + k);
    const __m512i w3 = _mm512_maskz_loadu_epi8(valid, row3 + k);
    QUEST_EACH_ROW(QUEST_MULTIPLY)
  }
#undef QUEST_MULTIPLY
  // With D = sum (qx + 128) qw: T = 4 D - 510 sum qw + 2 sum qx + K, modulo 2^32.
  alignas(64) float w_scales[16] = {};
  std::int32_t w_biases[4] = {};
  for (std::int32_t j = 0; j < tile.columns; ++j) {
    w_scales[j] = tile.w_steps[j] * 0.25f;
    w_biases[j] = static_cast<std::int32_t>(tile.k) - 510 * tile.w_sums[j];
  }
  const __m128i bias = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w_biases));
  alignas(64) std::int32_t integers[rows * 16] = {};
#define QUEST_FINISH(r)                                                               \
  if constexpr (rows > r) {                                                           \
    const __m128i sums = sums_of_four(sum##r##0, sum##r##1, sum##r##2, sum##r##3);    \
    const __m128i total = _mm_add_epi32(_mm_add_epi32(_mm_slli_epi32(sums, 2), bias), \
                                        _mm_set1_epi32(2 * tile.x_sums[r]));          \
    _mm_store_si128(reinterpret_cast<__m128i*>(integers + 16 * r), total);            \
  }
  QUEST_EACH_ROW(QUEST_FINISH)
#undef QUEST_FINISH
  ProductStrip out{};
  out.rows = rows;
  out.columns = tile.columns;
  out.x_steps = tile.x_steps;
  out.w_scales = w_scales;
  out.y = tile.y;
  out.y_stride = tile.y_stride;
  out.add = tile.add;
  finish_tile(out, integers, 16);
}
#undef QUEST_EACH_ROW

template <int rows>
void dot_tile(const DotTile& tile) {
  if constexpr (rows > 1) {
    if (tile.rows < rows) return dot_tile<rows - 1>(tile);
  }
  dot_tile_rows<rows>(tile);
}

constexpr ProductKernels kVnniProduct = {
    .tile_rows = kVnniTileRows,
    .panel_columns = kVnniColumns,
    .group_values = 4,
    .group_bytes = 4,
    .row_block_bytes = 256 << 10,
    .reads_codes = true,
    .pack_panel = pack_vnni_panel,
    .pack_panel_of_columns = pack_vnni_panel_of_columns,
    .pack_row = pack_vnni_row,
    .pack_integers = pack_vnni_row,
    .strip = vnni_strip,
    .pack_dot_row = pack_dot_row,
    .dot_tile = dot_tile<4>,
};

}  // namespace
}  // namespace quest
