// Rows of bf16 in blocks of 128 without tiles: included after quantize_rows.inc.h by the files for
// AVX-512. Everything stands in an anonymous namespace, by intention.
//
// Widening 16 values to f32 in their order takes two operations of those units that shuffle, and
// shuffles are what the rotation waits for where 512 bits run as two halves. Unpacking 32 takes one
// a vector, and leaves in the first vector values 0-3, 8-11, 16-19, 24-27 and in the second the
// rest. The stages are those of rotate_rows.inc.h in its order, so the bits are too; codes and bf16
// results come back into order as they are packed.

namespace quest {
namespace {

constexpr int kBlock = 128;
constexpr int kVectors = kBlock / 16;

/// Values of 32 columns.
inline void widen_interleaved(__m512i bits, F16& first, F16& second) {
  const __m512i zero = _mm512_setzero_si512();
  first.v = _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, bits));
  second.v = _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, bits));
}

/// The stage whose partners are `apart` vectors apart.
inline void butterfly_vectors(F16 (&x)[kVectors], int apart) {
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    if ((i & apart) != 0) continue;
    const F16 sum = add(x[i], x[i + apart]);
    x[i + apart] = sub(x[i], x[i + apart]);
    x[i] = sum;
  }
}

template <int h>
inline void butterfly_lanes(F16 (&x)[kVectors]) {
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) x[i] = butterfly<h>(x[i]);
}

/// The transform of a block, by stages of 64, 32, 16, 1, 2, 4 and 8 columns.
inline void transform_interleaved(F16 (&x)[kVectors]) {
  butterfly_vectors(x, 4);
  butterfly_vectors(x, 2);
  butterfly_lanes<8>(x);
  butterfly_lanes<1>(x);
  butterfly_lanes<2>(x);
  butterfly_vectors(x, 1);
  butterfly_lanes<4>(x);
}

/// Squares<true>, of interleaved vectors.
struct InterleavedSquares {
  __m512d first = _mm512_setzero_pd();
  __m512d second = _mm512_setzero_pd();

  static __m512d folded(F16 x) {
    return _mm512_cvtps_pd(
        _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1)));
  }
  void take(const F16 (&x)[kVectors]) {
    F16 a = mul(x[0], x[0]), b = mul(x[1], x[1]);
#pragma GCC unroll 8
    for (int i = 2; i < kVectors; i += 2) {
      a = add_exact_square(a, x[i]);
      b = add_exact_square(b, x[i + 1]);
    }
    first = _mm512_add_pd(first, folded(a));
    second = _mm512_add_pd(second, folded(b));
  }
  void store(double* sums) const {
    _mm256_storeu_pd(sums, _mm512_castpd512_pd256(first));
    _mm256_storeu_pd(sums + 4, _mm512_castpd512_pd256(second));
    _mm256_storeu_pd(sums + 8, _mm512_extractf64x4_pd(first, 1));
    _mm256_storeu_pd(sums + 12, _mm512_extractf64x4_pd(second, 1));
  }
};

Rotated rotate_for_codes_interleaved(const RowCodes& to, FloatRow x, const RowRule& rule) {
  if (!x.bf16 || rule.block != kBlock) return rotate_for_codes(to, x, rule);
  const auto* const values = static_cast<const std::uint16_t*>(x.data);
  InterleavedSquares squares;
  for (std::int64_t k = 0; k < rule.columns; k += kBlock) {
    F16 z[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; i += 2) {
      __builtin_prefetch(values + k + 16 * i + kBytesFetchedAhead / 2, 0, 2);
      widen_interleaved(_mm512_loadu_si512(values + k + 16 * i), z[i], z[i + 1]);
    }
    squares.take(z);
    transform_interleaved(z);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) store16(to.rotated + k + 16 * i, z[i]);
  }
  double sums[16];
  squares.store(sums);
  return {rms_of(sums, rule), RotatedAs::kInterleaved};
}

/// Masks of a pair of interleaved vectors as one of 32 columns: four bits of each in turn.
inline std::uint32_t interleaved_bits(std::uint32_t first, std::uint32_t second) {
  const auto spread = [](std::uint32_t bits) {
    bits = (bits | bits << 8) & 0x00ff00ffu;
    return (bits | bits << 4) & 0x0f0f0f0fu;
  };
  return spread(first) | spread(second) << 4;
}

template <MaskBy kMask>
void make_interleaved_codes(const RowCodes& to, const RowRule& rule, const CodeScale& scale) {
  CodeMaker maker(rule.min_code, rule.max_code);
  const F16 inverse_step = splat16(scale.inverse_step);
  const F16 limit = splat16(scale.limit);
  for (std::int64_t k = 0; k < rule.columns; k += 64) {
    F16 z[4];
    std::uint64_t bits = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) z[i] = load16(to.rotated + k + 16 * i);
    if constexpr (kMask == MaskBy::kBound) {
      const std::uint64_t high = interleaved_bits(within(z[2], limit), within(z[3], limit));
      bits = high << 32 | interleaved_bits(within(z[0], limit), within(z[1], limit));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) z[i] = mul(z[i], inverse_step);
    const std::uint64_t in_cells = maker.make<true>(to.codes + k, z[0], z[1], z[2], z[3]);
    if constexpr (kMask == MaskBy::kCells) bits = in_cells;
    if constexpr (kMask != MaskBy::kNothing) __builtin_memcpy(to.mask + k / 8, &bits, sizeof bits);
  }
  *to.code_sum = maker.sum();
}

void codes_of_interleaved(const RowCodes& to, const RowRule& rule, const CodeScale& scale) {
  if (scale.rotated_as == RotatedAs::kWhole) return codes_of_rotated(to, rule, scale);
  make_by_mask(to, rule, scale.mask_by,
               [&]<MaskBy kMask>() { make_interleaved_codes<kMask>(to, rule, scale); });
}

template <bool kAdd>
void rotate_interleaved(std::uint16_t* out, const std::uint16_t* x, const std::uint8_t* mask,
                        std::int64_t columns) {
  const F16 scale = splat16(static_cast<float>(block_scale(kBlock)));
  for (std::int64_t k = 0; k < columns; k += kBlock) {
    F16 z[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; i += 2) {
      std::uint32_t bits = ~std::uint32_t{0};
      if (mask != nullptr) __builtin_memcpy(&bits, mask + k / 8 + 2 * i, sizeof bits);
      widen_interleaved(_mm512_maskz_loadu_epi16(bits, x + k + 16 * i), z[i], z[i + 1]);
    }
    transform_interleaved(z);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; i += 2) {
      std::uint16_t* const to = out + k + 16 * i;
      F16 first = mul(z[i], scale), second = mul(z[i + 1], scale);
      if constexpr (kAdd) {
        F16 old_first, old_second;
        widen_interleaved(_mm512_loadu_si512(to), old_first, old_second);
        first = add(old_first, first);
        second = add(old_second, second);
      }
      // Quarters of 128 bits of the first, then of the second.
      const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
      _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, bf16_bits(first, second)));
    }
  }
}

void rotate_row_interleaved(const RotatedRow& to, FloatRow d_z, const std::uint8_t* mask,
                            std::int64_t columns, std::int64_t block) {
  if (!d_z.bf16 || !to.out.bf16 || block != kBlock) {
    return rotate_row(to, d_z, mask, columns, block);
  }
  auto* const out = static_cast<std::uint16_t*>(to.out.data);
  const auto* const x = static_cast<const std::uint16_t*>(d_z.data);
  if (to.add) return rotate_interleaved<true>(out, x, mask, columns);
  rotate_interleaved<false>(out, x, mask, columns);
}

constexpr RowKernels kInterleavedRowKernels = {
    .begin = nothing,
    .end = nothing,
    .rotate_for_codes = rotate_for_codes_interleaved,
    .code_scale = code_scale,
    .codes_of_rotated = codes_of_interleaved,
    .rotate_row = rotate_row_interleaved,
};

}  // namespace
}  // namespace quest
