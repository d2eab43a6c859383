// Rounding of gradients in AVX-512: 32 columns at a time, the even ones in one vector and the odd
// ones in another, which is how bf16 values widen and random 16-bit values lie.
#include <immintrin.h>

#include "backend/cpu/rounding/rounding_kernels.h"
#include "backend/cpu/simd/transpose_avx512.h"
#include "core/philox_constants.h"

namespace quest {
namespace {

struct Pair {
  __m512 even, odd;
};

/// 32 values of a row from column j on, zeros after its end.
inline Pair load_pair(const GradientRow& row, std::int64_t j) {
  const std::int64_t left = row.count - j;
  const std::uint32_t valid = left >= 32 ? ~0u : (1u << left) - 1;
  if (row.x.bf16) {
    const __m512i both =
        _mm512_maskz_loadu_epi16(valid, static_cast<const std::uint16_t*>(row.x.data) + j);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-65536)))};
  }
  const auto* const x = static_cast<const float*>(row.x.data) + j;
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(valid), x);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(valid >> 16), x + 16);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  return {_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high)};
}

inline Pair load_factors(const float* factors) {
  return {_mm512_loadu_ps(factors), _mm512_loadu_ps(factors + 16)};
}

inline __m512i magnitude(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

float largest_of_row(const GradientRow& row) {
  // As bits, magnitudes are in the order of integers, with NaN above all.
  __m512i largest_even = _mm512_setzero_si512(), largest_odd = _mm512_setzero_si512();
  for (std::int64_t j = 0; j < row.count; j += 32) {
    const Pair x = load_pair(row, j);
    const Pair factors = load_factors(row.column_factors + j);
    largest_even = _mm512_max_epi32(largest_even, magnitude(_mm512_mul_ps(x.even, factors.even)));
    largest_odd = _mm512_max_epi32(largest_odd, magnitude(_mm512_mul_ps(x.odd, factors.odd)));
  }
  const std::int32_t most = _mm512_reduce_max_epi32(_mm512_max_epi32(largest_even, largest_odd));
  float value;
  __builtin_memcpy(&value, &most, sizeof value);
  return value;
}

void largest_of_columns(float* largest, const GradientRow& row) {
  const __m512 factor = _mm512_set1_ps(row.row_factor);
  for (std::int64_t j = 0; j < row.count; j += 32) {
    const Pair x = load_pair(row, j);
    const __m512i even = _mm512_loadu_si512(largest + j);
    const __m512i odd = _mm512_loadu_si512(largest + j + 16);
    _mm512_storeu_si512(largest + j,
                        _mm512_max_epi32(even, magnitude(_mm512_mul_ps(x.even, factor))));
    _mm512_storeu_si512(largest + j + 16,
                        _mm512_max_epi32(odd, magnitude(_mm512_mul_ps(x.odd, factor))));
  }
}

/// The bits of 256 columns of a row: lane i of words[j / 64] holds those of columns j + 2 i and
/// j + 2 i + 1, and rotated by 8 those 32 columns on.
struct RandomGroup {
  __m512i words[4];
};

/// Of the counters in the low halves of eight 64-bit lanes. The high halves hold what the
/// multiplications do not read.
struct Counters {
  __m512i a, b, c, d;

  void round(__m512i key0, __m512i key1) {
    const __m512i p0 = _mm512_mul_epu32(a, _mm512_set1_epi64(kPhiloxMultiplier0));
    const __m512i p1 = _mm512_mul_epu32(c, _mm512_set1_epi64(kPhiloxMultiplier1));
    constexpr int kXorOfThree = 0x96;
    a = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p1, 32), b, key0, kXorOfThree);
    b = p1;
    c = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p0, 32), d, key1, kXorOfThree);
    d = p0;
  }
};

inline __m512i joined(__m512i even, __m512i odd) {
  return _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}

/// Philox 4x32 of the counters (first .. first + 15, row, 0, 0).
inline RandomGroup philox(const std::uint32_t* key, std::uint32_t first, std::uint32_t row) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i counters =
      _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14));
  Counters even{counters, _mm512_set1_epi64(row), zero, zero};
  Counters odd{_mm512_add_epi64(counters, _mm512_set1_epi64(1)), even.b, zero, zero};
  std::uint32_t key0 = key[0], key1 = key[1];
#pragma GCC unroll 10
  for (int i = 0; i < kPhiloxRounds; ++i) {
    const __m512i keys0 = _mm512_set1_epi32(static_cast<int>(key0));
    const __m512i keys1 = _mm512_set1_epi32(static_cast<int>(key1));
    even.round(keys0, keys1);
    odd.round(keys0, keys1);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return {
      {joined(even.a, odd.a), joined(even.b, odd.b), joined(even.c, odd.c), joined(even.d, odd.d)}};
}

/// floor((nearest(x) + u) / 2^16) as 32 words in the order of the columns; the words of `pairs` are
/// the u of neighbours.
inline __m512i rounded(Pair x, __m512i pairs) {
  const __m512i even = _mm512_add_epi32(_mm512_cvtps_epi32(x.even),
                                        _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff)));
  const __m512i odd = _mm512_add_epi32(_mm512_cvtps_epi32(x.odd), _mm512_srli_epi32(pairs, 16));
  return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(even, 16), odd);
}

template <bool columns_first>
inline Pair scaled(const GradientRow& row, std::int64_t j) {
  const Pair x = load_pair(row, j);
  const Pair factors = load_factors(row.column_factors + j);
  const __m512 factor = _mm512_set1_ps(row.row_factor);
  if constexpr (columns_first) {
    return {_mm512_mul_ps(_mm512_mul_ps(x.even, factors.even), factor),
            _mm512_mul_ps(_mm512_mul_ps(x.odd, factors.odd), factor)};
  } else {
    return {_mm512_mul_ps(_mm512_mul_ps(x.even, factor), factors.even),
            _mm512_mul_ps(_mm512_mul_ps(x.odd, factor), factors.odd)};
  }
}

/// Reading a row and rounding it take turns at memory and arithmetic unless the next row comes
/// while this one is rounded.
inline void ask_for(const GradientRow& row, std::int64_t j) {
  const std::int64_t bytes = row.x.bf16 ? 2 : 4;
  const char* const at = static_cast<const char*>(row.x.data) + row.next_bytes + j * bytes;
  _mm_prefetch(at, _MM_HINT_T1);
  if (!row.x.bf16) _mm_prefetch(at + 64, _MM_HINT_T1);
}

template <bool columns_first>
std::int32_t round_row(std::int8_t* codes, const GradientRow& row, const std::uint32_t* key,
                       std::int64_t place, std::int64_t first) {
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  __m512i sums = _mm512_setzero_si512();
  for (std::int64_t group = 0; group < row.count; group += 256) {
    const RandomGroup random = philox(key, static_cast<std::uint32_t>((first + group) / 16),
                                      static_cast<std::uint32_t>(place));
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      const std::int64_t j = group + 64 * part;
      const std::int64_t left = row.count - j;
      if (left <= 0) break;
      const __m512i pairs = random.words[part];
      ask_for(row, j);
      ask_for(row, j + 32);
      const __m512i low = rounded(scaled<columns_first>(row, j), pairs);
      const __m512i high =
          left > 32 ? rounded(scaled<columns_first>(row, j + 32), _mm512_ror_epi32(pairs, 8))
                    : _mm512_setzero_si512();
      const __mmask64 valid = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
      const __m512i bytes = _mm512_maskz_mov_epi8(
          valid, _mm512_permutexvar_epi64(order, _mm512_packs_epi16(low, high)));
      _mm512_mask_storeu_epi8(codes + j, valid, bytes);
      sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), bytes);
    }
  }
  return _mm512_reduce_add_epi32(sums);
}

std::int32_t round(std::int8_t* codes, const GradientRow& row, const std::uint32_t* key,
                   std::int64_t place, std::int64_t first) {
  if (row.columns_first) return round_row<true>(codes, row, key, place, first);
  return round_row<false>(codes, row, key, place, first);
}

// --- The transpose ---

/// 16 bytes of row i of a block from column j on, zeros where there is no value.
template <bool whole>
inline __m128i load_bytes(const RoundedBlock& block, std::int64_t i, std::int64_t j) {
  const std::int8_t* const at = block.codes + i * block.stride + j;
  if constexpr (whole) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  const std::int64_t left = block.columns - j;
  if (i >= block.rows || left <= 0) return _mm_setzero_si128();
  return _mm_maskz_loadu_epi8(static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1), at);
}

/// 16 columns from j on as rows of 64 bytes, each of which goes to put(row, bytes).
template <bool whole, typename Put>
void put_columns(std::int32_t* sums, const RoundedBlock& block, std::int64_t j, Put put) {
  // Four columns of four rows into each 128 bits, then their bytes next to each other.
  const __m512i columns = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m512i totals = _mm512_setzero_si512();
  __m512i quads[16];  // dword c of quad i: rows 4 i to 4 i + 3 of column c
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    __m512i rows = _mm512_castsi128_si512(load_bytes<whole>(block, 4 * i, j));
    rows = _mm512_inserti32x4(rows, load_bytes<whole>(block, 4 * i + 1, j), 1);
    rows = _mm512_inserti32x4(rows, load_bytes<whole>(block, 4 * i + 2, j), 2);
    rows = _mm512_inserti32x4(rows, load_bytes<whole>(block, 4 * i + 3, j), 3);
    quads[i] = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(columns, rows), bytes);
    totals = _mm512_dpbusd_epi32(totals, _mm512_set1_epi8(1), quads[i]);
  }
  transpose16(quads);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) put(i, quads[i]);
  const std::int64_t left = block.columns - j;
  const auto valid = static_cast<__mmask16>(left >= 16 ? 0xffffu : left > 0 ? (1u << left) - 1 : 0);
  const __m512i before = _mm512_maskz_loadu_epi32(valid, sums + j);
  _mm512_mask_storeu_epi32(sums + j, valid, _mm512_add_epi32(before, totals));
}

void put_tiles(std::int8_t* tiles, std::int64_t stride, std::int32_t* sums,
               const RoundedBlock& block) {
  for (std::int64_t j = 0; j < block.columns; j += 16) {
    std::int8_t* const tile = tiles + j / 32 * stride + j % 32 * 64;
    const auto put = [tile](int i, __m512i bytes) { _mm512_storeu_si512(tile + 64 * i, bytes); };
    if (block.rows == 64 && block.columns - j >= 16) {
      put_columns<true>(sums, block, j, put);
    } else {
      put_columns<false>(sums, block, j, put);
    }
  }
}

void put_lines(std::int8_t* lines, std::int64_t stride, std::int32_t* sums,
               const RoundedBlock& block) {
  const __mmask64 rows = block.rows >= 64 ? ~__mmask64{0} : (__mmask64{1} << block.rows) - 1;
  for (std::int64_t j = 0; j < block.columns; j += 16) {
    std::int8_t* const line = lines + j * stride;
    const std::int64_t left = block.columns - j;
    if (block.rows == 64 && left >= 16) {
      put_columns<true>(sums, block, j, [=](int i, __m512i bytes) {
        _mm512_storeu_si512(line + i * stride, bytes);
      });
    } else {
      put_columns<false>(sums, block, j, [=](int i, __m512i bytes) {
        if (i < left) _mm512_mask_storeu_epi8(line + i * stride, rows, bytes);
      });
    }
  }
}

}  // namespace

const RoundingKernels kRoundingAvx512 = {
    .largest_of_row = largest_of_row,
    .largest_of_columns = largest_of_columns,
    .round = round,
    .put_lines = put_lines,
    .put_tiles = put_tiles,
};

}  // namespace quest
