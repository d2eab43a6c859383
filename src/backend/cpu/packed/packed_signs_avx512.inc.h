// One bit by one bit with AVX-512: rows of signs, their xor and the count of ones.

namespace quest {
namespace {

/// bits_of(codes) of all codes, of which those that do not exist are 0.
template <typename BitsOf>
inline void pack_bits(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns,
                      const BitsOf& bits_of) {
  std::int64_t k = 0;
  for (; k + 64 <= columns; k += 64) {
    const std::uint64_t bits = bits_of(_mm512_loadu_si512(codes + k));
    __builtin_memcpy(out + k / 8, &bits, sizeof bits);
  }
  for (; k < 8 * sign_row_bytes(columns); k += 64) {
    const std::uint64_t valid = k < columns ? first_bytes(columns - k) : 0;
    const std::uint64_t bits = bits_of(_mm512_maskz_loadu_epi8(valid, codes + k)) & valid;
    __builtin_memcpy(out + k / 8, &bits, sizeof bits);
  }
}

void pack_signs(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns) {
  pack_bits(out, codes, columns,
            [](__m512i values) { return ~_cvtmask64_u64(_mm512_movepi8_mask(values)); });
}

void pack_place(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns, int place) {
  const __m128i shift = _mm_cvtsi32_si128(7 - place);
  pack_bits(out, codes, columns, [shift](__m512i values) {
    return _cvtmask64_u64(_mm512_movepi8_mask(_mm512_sll_epi16(values, shift)));
  });
}

#if defined(__AVX512VPOPCNTDQ__)
constexpr bool kCountsBits = true;
#else
constexpr bool kCountsBits = false;

/// The number of ones in each byte.
inline __m512i ones_of_bytes(__m512i x) {
  const __m512i table =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i nibble = _mm512_set1_epi8(0x0f);
  const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(x, nibble));
  const __m512i high =
      _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble));
  return _mm512_add_epi8(low, high);
}
#endif

/// sum += the number of ones in each lane of 32 bits.
inline __m512i add_ones(__m512i sum, __m512i x) {
#if defined(__AVX512VPOPCNTDQ__)
  return _mm512_add_epi32(sum, _mm512_popcnt_epi32(x));
#else
  dot_bytes(sum, ones_of_bytes(x), _mm512_set1_epi8(1));
  return sum;
#endif
}

/// The same of 64 bits.
inline __m512i add_ones_of_64(__m512i sum, __m512i x) {
#if defined(__AVX512VPOPCNTDQ__)
  return _mm512_add_epi64(sum, _mm512_popcnt_epi64(x));
#else
  return _mm512_add_epi64(sum, _mm512_sad_epu8(ones_of_bytes(x), _mm512_setzero_si512()));
#endif
}

/// Four sums in every 128 bits, of lanes of 64 bits of which each holds less than 2^32.
inline __m512i sums_of_quarters(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_mask_shuffle_epi32(a, 0xaaaa, b, _MM_PERM_CCAA);
  const __m512i cd = _mm512_mask_shuffle_epi32(c, 0xaaaa, d, _MM_PERM_CCAA);
  return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/// 128 bits each: the sums over the quarters of a, b, c and d.
inline __m512i sums_over_quarters(__m512i a, __m512i b, __m512i c, __m512i d) {
  const auto halves = [](__m512i low, __m512i high) {
    return _mm512_add_epi32(_mm512_mask_blend_epi64(0xf0, low, high),
                            _mm512_shuffle_i64x2(low, high, 0x4e));
  };
  const __m512i ac = halves(a, c), bd = halves(b, d);
  const __m512i other = _mm512_setr_epi64(2, 3, 8, 9, 6, 7, 12, 13);
  return _mm512_add_epi32(_mm512_mask_blend_epi64(0xcc, ac, bd),
                          _mm512_permutex2var_epi64(ac, other, bd));
}

/// out[row][0..4) = the sums over the lanes of 64 bits of the accumulators of each row.
template <int rows>
inline __attribute__((always_inline)) void put_ones(Accumulators<4 * rows>& sums, std::int32_t* out,
                                                    std::int64_t stride) {
  const auto quarters = [&]<int r>() __attribute__((always_inline)) {
    return sums_of_quarters(sums.template at<4 * r>(), sums.template at<4 * r + 1>(),
                            sums.template at<4 * r + 2>(), sums.template at<4 * r + 3>());
  };
  const auto put = [&](int row, __m128i four) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + row * stride), four);
  };
  if constexpr (rows == 1) {
    const __m512i four = quarters.template operator()<0>();
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
    put(0, _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
  } else {
    static_assert(rows == 4);
    const __m512i four =
        sums_over_quarters(quarters.template operator()<0>(), quarters.template operator()<1>(),
                           quarters.template operator()<2>(), quarters.template operator()<3>());
    put(0, _mm512_castsi512_si128(four));
    put(1, _mm512_extracti32x4_epi32(four, 1));
    put(2, _mm512_extracti32x4_epi32(four, 2));
    put(3, _mm512_extracti32x4_epi32(four, 3));
  }
}

/// How far ahead to ask. Four rows of bits are nearly one piece: asked of the first level in the
/// order of memory, a Zen 4 follows best without any distance.
inline std::int64_t signs_ahead(const PackedDot& d) { return d.in_order ? 0 : 4096; }

inline __attribute__((always_inline)) void ask_for_signs(const std::uint8_t* signs) {
  for (int c = 0; c < 4; ++c) __builtin_prefetch(signs + 64 * c);
}

/// `rows` rows of x from row i on against four rows of w, an accumulator a pair.
template <int rows, int... pairs>
inline void xor_rows_by_four(const PackedDot& d, const FourRows& w, std::int64_t i, std::int64_t j,
                             Indices<int, pairs...>) {
  Accumulators<4 * rows> sums;
  const std::int64_t bytes = (d.k + 7) / 8;
  const std::uint8_t* const x = d.x + i * d.x_row_bytes;
  const std::int64_t ahead = signs_ahead(d);
  for (std::int64_t at = 0; at < bytes; at += 64) {
    const __mmask64 valid = first_bytes(bytes - at);
    ask_for_signs(w.row[0] + 4 * at + ahead);
    const __m512i signs[4] = {_mm512_maskz_loadu_epi8(valid, w.row[0] + at),
                              _mm512_maskz_loadu_epi8(valid, w.row[1] + at),
                              _mm512_maskz_loadu_epi8(valid, w.row[2] + at),
                              _mm512_maskz_loadu_epi8(valid, w.row[3] + at)};
    ((sums.template at<pairs>() =
          add_ones_of_64(sums.template at<pairs>(),
                         _mm512_xor_si512(signs[pairs % 4],
                                          _mm512_loadu_si512(x + pairs / 4 * d.x_row_bytes + at)))),
     ...);
  }
  put_ones<rows>(sums, d.sums + i * d.stride + j, d.stride);
}
template <int rows>
inline void xor_rows_by_four(const PackedDot& d, const FourRows& w, std::int64_t i,
                             std::int64_t j) {
  constexpr QUEST_INDICES(4 * rows) kPairs;
  xor_rows_by_four<rows>(d, w, i, j, kPairs);
}

/// The sum over the lanes of 64 bits is the number of bits of a row of w, of `bytes` bytes, that
/// differ from x, whose first whole lines are held.
template <int... each>
inline __attribute__((always_inline)) __m512i ones_of_row(Accumulators<kHeldVectors>& held,
                                                          const std::uint8_t* x,
                                                          const std::uint8_t* w, std::int64_t bytes,
                                                          Indices<int, each...>) {
  Accumulators<2> sums;
  const auto add = [](__m512i & sum, __m512i line, __m512i signs) __attribute__((always_inline)) {
    sum = add_ones_of_64(sum, _mm512_xor_si512(line, signs));
  };
  static_cast<void>(((64 * (each + 1) <= bytes &&
                      (add(sums.template at<each % 2>(), _mm512_loadu_si512(w + 64 * each),
                           held.template at<each>()),
                       true)) &&
                     ...));
  const std::int64_t of_held = 64 * sizeof...(each);
  for (std::int64_t at = bytes < of_held ? bytes / 64 * 64 : of_held; at < bytes; at += 64) {
    add(sums.template at<0>(), _mm512_maskz_loadu_epi8(first_bytes(bytes - at), w + at),
        _mm512_loadu_si512(x + at));
  }
  return _mm512_add_epi64(sums.template at<0>(), sums.template at<1>());
}

/// One row of x; rows of w one after another.
template <int vectors = kHeldVectors>
void xor_row_by_row(const PackedDot& d) {
  constexpr QUEST_INDICES(vectors) kAll;
  const std::int64_t bytes = (d.k + 7) / 8;
  Accumulators<vectors> held;
  hold(held, d.x, d.x_row_bytes, kAll);
  for (std::int64_t j = 0; j < d.columns; j += 4) {
    const FourRows w(d, j);
    Accumulators<4> sums;
    sums.at<0>() = ones_of_row(held, d.x, w.row[0], bytes, kAll);
    sums.at<1>() = ones_of_row(held, d.x, w.row[1], bytes, kAll);
    sums.at<2>() = ones_of_row(held, d.x, w.row[2], bytes, kAll);
    sums.at<3>() = ones_of_row(held, d.x, w.row[3], bytes, kAll);
    put_ones<1>(sums, d.sums + j, d.stride);
  }
}

void xor_dot(const PackedDot& d) {
  if (d.rows == 1 && d.in_order) return xor_row_by_row(d);
  for (std::int64_t j = 0; j < d.columns; j += 4) {
    const FourRows w(d, j);
    std::int64_t i = 0;
    for (; i + 4 <= d.rows; i += 4) xor_rows_by_four<4>(d, w, i, j);
    for (; i < d.rows; ++i) xor_rows_by_four<1>(d, w, i, j);
  }
}

constexpr int kXorRows = 12;
constexpr int kXorColumns = 32;

/// Sixteen groups of sixteen rows, of which `rows` and `bytes` of each exist.
template <bool whole>
inline void pack_sign_block(std::uint8_t* out, const std::uint8_t* signs, std::int64_t stride,
                            std::int64_t rows, std::int64_t bytes) {
  const __mmask64 valid = first_bytes(bytes);
  __m512i block[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    block[i] = whole || i < rows ? _mm512_maskz_loadu_epi8(valid, signs + i * stride)
                                 : _mm512_setzero_si512();
  }
  transpose16(block);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (whole || 4 * i < bytes) _mm512_storeu_si512(out + i * 4 * kXorColumns, block[i]);
  }
}

void pack_sign_panel(std::uint8_t* panel, const SignRows& w) {
  for (std::int64_t half = 0; half < 2; ++half) {
    const std::int64_t rows = w.count - 16 * half;
    const std::uint8_t* const signs = w.rows + (rows > 0 ? 16 * half * w.stride : 0);
    for (std::int64_t at = 0; at < w.bytes; at += 64) {
      std::uint8_t* const out = panel + at * kXorColumns + 64 * half;
      const std::int64_t bytes = w.bytes - at;
      rows >= 16 && bytes >= 64 ? pack_sign_block<true>(out, signs + at, w.stride, 16, 64)
                                : pack_sign_block<false>(out, signs + at, w.stride, rows, bytes);
    }
  }
}

/// y = T (step w_step / 4) for sums [rows][kXorColumns], as finish_row rounds it: T = K - 2 sum,
/// with planes (2^b - 1)(2^c - 1) K - 2 (sums of all pairs, each with the weights of its planes).
template <bool bf16, bool two_planes>
__attribute__((noinline)) void put_distances(const XorTile& tile, const std::int32_t* sums) {
  constexpr int kHalves = two_planes ? 1 : 2;
  const __m512i most = _mm512_set1_epi32(((1 << tile.planes) - 1) * (two_planes ? 3 : 1) * tile.k);
  const __mmask64 columns = first_bytes(tile.columns);
  F16 scales[kHalves];
#pragma GCC unroll 2
  for (int half = 0; half < kHalves; ++half) {
    const auto valid = static_cast<__mmask16>(columns >> (16 * half));
    scales[half] = mul({_mm512_maskz_loadu_ps(valid, tile.w_steps + 16 * half)}, splat16(0.25f));
  }
  for (std::int64_t i = 0; i < tile.rows / tile.planes; ++i) {
    __m512i sum[2] = {_mm512_load_si512(sums), _mm512_load_si512(sums + 16)};
    sums += kXorColumns;
    for (std::int32_t plane = 1; plane < tile.planes; ++plane, sums += kXorColumns) {
      sum[0] = _mm512_add_epi32(_mm512_add_epi32(sum[0], sum[0]), _mm512_load_si512(sums));
      sum[1] = _mm512_add_epi32(_mm512_add_epi32(sum[1], sum[1]), _mm512_load_si512(sums + 16));
    }
    if constexpr (two_planes) {
      sum[0] = _mm512_add_epi32(_mm512_add_epi32(sum[0], sum[0]), sum[1]);
    }
    const F16 step = splat16(tile.x_steps[i]);
    F16 values[2];
#pragma GCC unroll 2
    for (int half = 0; half < kHalves; ++half) {
      const __m512i total = _mm512_sub_epi32(most, _mm512_add_epi32(sum[half], sum[half]));
      values[half] = mul({_mm512_cvtepi32_ps(total)}, mul(step, scales[half]));
    }
    const std::int64_t at = i * tile.y_stride;
    if constexpr (bf16 && !two_planes) {
      auto* const y = static_cast<std::uint16_t*>(tile.y) + at;
      const auto valid = static_cast<__mmask32>(columns);
      if (tile.add) {
        const __m512i before = _mm512_maskz_loadu_epi16(valid, y);
        values[0] = add(widened(_mm512_castsi512_si256(before)), values[0]);
        values[1] = add(widened(_mm512_extracti64x4_epi64(before, 1)), values[1]);
      }
      _mm512_mask_storeu_epi16(y, valid, bf16_bits(values[0], values[1]));
    } else if constexpr (bf16) {
      auto* const y = static_cast<std::uint16_t*>(tile.y) + at;
      const auto valid = static_cast<__mmask16>(columns);
      if (tile.add) values[0] = add(widened(_mm256_maskz_loadu_epi16(valid, y)), values[0]);
      _mm256_mask_storeu_epi16(y, valid, bf16_bits(values[0]));
    } else {
#pragma GCC unroll 2
      for (int half = 0; half < kHalves; ++half) {
        const auto valid = static_cast<__mmask16>(columns >> (16 * half));
        auto* const y = static_cast<float*>(tile.y) + at + 16 * half;
        if (tile.add) values[half] = add({_mm512_maskz_loadu_ps(valid, y)}, values[half]);
        _mm512_mask_storeu_ps(y, valid, values[half].v);
      }
    }
  }
}

template <int... cells>
inline void xor_rows(const XorTile& tile, Indices<int, cells...>) {
  constexpr int kRows = sizeof...(cells) / 2;
  const std::int64_t line = tile.bf16 ? 2 : 4;
  for (int r = 0; r < kRows / tile.planes; ++r) {
    const auto* const y = static_cast<const char*>(tile.y) + r * tile.y_stride * line;
    fetch_to_write(y);
    fetch_to_write(y + 64);
  }
  __m512i sums[sizeof...(cells)] = {(static_cast<void>(cells), _mm512_setzero_si512())...};
  const std::int64_t stride = tile.x_row_bytes;
  const RowAddresses x(tile.x, stride);
  const std::uint8_t* w = tile.panel;
#pragma GCC unroll 2
  for (std::int64_t at = 0; at < 4 * tile.groups; at += 4, w += 4 * kXorColumns) {
    const __m512i columns[2] = {_mm512_loadu_si512(w), _mm512_loadu_si512(w + 64)};
    const auto group = [&]<int row>() __attribute__((always_inline)) {
      std::int32_t bits;
      __builtin_memcpy(&bits, x.template row<row>(stride) + at, sizeof bits);
      return _mm512_set1_epi32(bits);
    };
    ((sums[cells] =
          add_ones(sums[cells],
                   _mm512_xor_si512(columns[cells % 2], group.template operator()<cells / 2>()))),
     ...);
  }
  // The ends are a function of their own: with them here, g++ 12 keeps sums in memory.
  alignas(64) std::int32_t numbers[kRows * kXorColumns];
  (_mm512_store_si512(numbers + 16 * cells, sums[cells]), ...);
  if (tile.w_planes == 1) {
    tile.bf16 ? put_distances<true, false>(tile, numbers)
              : put_distances<false, false>(tile, numbers);
  } else {
    tile.bf16 ? put_distances<true, true>(tile, numbers)
              : put_distances<false, true>(tile, numbers);
  }
}

template <int rows = kXorRows>
void xor_tile(const XorTile& tile) {
  if constexpr (rows > 1) {
    if (tile.rows < rows) return xor_tile<rows - 1>(tile);
  }
  xor_rows(tile, QUEST_INDICES(2 * rows){});
}

}  // namespace
}  // namespace quest
