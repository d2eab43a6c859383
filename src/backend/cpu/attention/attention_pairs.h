// What attention in vectors of bf16 and its gradient share: products of pairs, and their operands.
//
// VDPBF16PS multiplies 16 columns of pairs of summed values by pairs of one row. A second operand
// therefore lies in panels of 64 columns, [pairs][64 columns], and is loaded; of a first operand a
// pair at a time is broadcast from wherever it lies, so that weights stored for queries serve keys
// as well. Four rows by 64 columns of sums stay in registers. For files compiled for AVX-512 and
// its bf16 products.
#pragma once

#include "backend/cpu/attention/attention_vectors.h"
#include "backend/cpu/simd/pairs_avx512.h"
#include "backend/cpu/simd/transpose_avx512.h"

namespace quest {
namespace {

constexpr std::int64_t kRows = 4;       // of a first operand that are multiplied at once
constexpr std::int64_t kColumns = 64;   // of a panel
constexpr std::int64_t kLanes = 16;     // of a vector of f32
constexpr std::int64_t kPairBytes = 4;  // of two bf16 values
constexpr std::int64_t kPairRowBytes = kColumns * kPairBytes;

/// Rows of pairs, `row` and `pair` bytes from one to the next.
struct PairRows {
  const std::uint8_t* data;
  std::int64_t row;
  std::int64_t pair;
};

inline std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
inline std::int64_t round_up(std::int64_t value, std::int64_t to) {
  return divide_up(value, to) * to;
}

template <int vectors>
inline __attribute__((always_inline)) void multiply_vectors(float* out, std::int64_t stride,
                                                            PairRows a, const std::uint8_t* b,
                                                            std::int64_t pairs, bool add) {
  __m512 sums[kRows][vectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      sums[r][v] = add ? _mm512_load_ps(out + r * stride + v * kLanes) : _mm512_setzero_ps();
    }
  }
  for (std::int64_t p = 0; p < pairs; ++p) {
    __m512bh columns[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      columns[v] = (__m512bh)_mm512_load_si512(b + v * kLanes * kPairBytes);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      int pair;
      __builtin_memcpy(&pair, a.data + r * a.row, sizeof pair);
      const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], columns[v], both);
      }
    }
    a.data += a.pair;
    b += kPairRowBytes;
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) _mm512_store_ps(out + r * stride + v * kLanes, sums[r][v]);
  }
}

/// out [4][`vectors` of 16 columns] (= or, where `add`, +=) rows times columns; 1 to 4 vectors.
inline __attribute__((always_inline)) void multiply(float* out, std::int64_t stride, PairRows a,
                                                    const std::uint8_t* b, std::int64_t pairs,
                                                    std::int64_t vectors, bool add) {
  if (vectors == 4) return multiply_vectors<4>(out, stride, a, b, pairs, add);
  if (vectors == 3) return multiply_vectors<3>(out, stride, a, b, pairs, add);
  if (vectors == 2) return multiply_vectors<2>(out, stride, a, b, pairs, add);
  multiply_vectors<1>(out, stride, a, b, pairs, add);
}

/// How many vectors of panel `panel` hold some of `columns`.
inline std::int64_t vectors_of(std::int64_t columns, std::int64_t panel) {
  const std::int64_t vectors = divide_up(columns, kLanes) - panel * (kColumns / kLanes);
  return vectors < kColumns / kLanes ? vectors : kColumns / kLanes;
}

/// A head's rows of bf16.
struct HeadRows {
  const std::uint16_t* data;
  std::int64_t stride;
  std::int64_t rows;     ///< those from here on are zeros
  std::int64_t columns;  ///< D
};

/// Bytes of a copied row.
inline std::int64_t row_bytes(std::int64_t columns) { return 2 * round_up(columns, kPanel); }

/// A first operand: `rows` rows, row_bytes(D) from one to the next, zeros at their ends.
inline void copy_rows(std::uint8_t* out, const HeadRows& x, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < x.columns; c += kPanel, out += 2 * kPanel) {
      const __mmask32 lanes = lanes_below(x.columns, c);
      _mm512_store_si512(out, load_row(x.data + c, x.stride, r, x.rows, lanes));
    }
  }
}

/// A panel whose 64 columns are rows of x, and whose summed values are its columns.
inline void pack_rows_as_columns(std::uint8_t* out, const HeadRows& x) {
  for (std::int64_t c = 0; c < x.columns; c += kPanel) {
    const __mmask32 lanes = lanes_below(x.columns, c);
    std::uint8_t* const pairs = out + c / 2 * kPairRowBytes;
    for (std::int64_t first = 0; first < kColumns; first += kLanes) {
      __m512i block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        block[i] = load_row(x.data + c, x.stride, first + i, x.rows, lanes);
      }
      transpose16(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        _mm512_store_si512(pairs + i * kPairRowBytes + first * kPairBytes, block[i]);
      }
    }
  }
}

/// Panels `panel_bytes` apart whose columns are those of x, and whose summed values are `rows` of
/// its rows, an even number.
inline void pack_rows_as_pairs(std::uint8_t* out, std::int64_t panel_bytes, const HeadRows& x,
                               std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r += 2, out += kPairRowBytes) {
    for (std::int64_t c = 0; c < x.columns; c += kPanel) {
      const __mmask32 lanes = lanes_below(x.columns, c);
      const __m512i a = load_row(x.data + c, x.stride, r, x.rows, lanes);
      const __m512i b = load_row(x.data + c, x.stride, r + 1, x.rows, lanes);
      std::uint8_t* const to = out + c / kColumns * panel_bytes + c % kColumns * kPairBytes;
      _mm512_store_si512(to, pairs_of_lower(a, b));
      _mm512_store_si512(to + kLanes * kPairBytes, pairs_of_upper(a, b));
    }
  }
}

/// Two vectors as bf16.
inline __m512i to_bf16(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/// A row of sums, times `factor`, as bf16.
inline void write_row(std::uint16_t* out, const float* sums, __m512 factor, std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; c += kPanel) {
    const __m512 low = _mm512_mul_ps(_mm512_load_ps(sums + c), factor);
    const __m512 high = _mm512_mul_ps(_mm512_load_ps(sums + c + kLanes), factor);
    _mm512_mask_storeu_epi16(out + c, lanes_below(columns, c), to_bf16(low, high));
  }
}

}  // namespace
}  // namespace quest
