// From the sums of squares of a row and its rotated values to steps, codes and mask, in registers.
#pragma once

#include <type_traits>

#include "backend/cuda/row_sources.cuh"

namespace quest::cuda {

inline constexpr int kMostColumns = 128 << 10;  // of a row that is quantized by whole groups

/// Whether the source takes whole groups, of one block each.
template <typename Source>
inline constexpr bool kWholeGroups = VectorSource<Source>;

/// RowQuantizer, and what does not depend on the row.
struct RowRule {
  double alpha, kappa, epsilon;
  double trusted;  ///< levels / (levels - 1)
  double inverse_columns, steps_per_clip_point, scale, inverse_scale;
  int mask;  ///< of Estimator
  std::int32_t min_code, max_code;
  int columns, block;
};

/// Where codes and what belongs to them go.
struct CodesOut {
  std::int8_t* codes;
  float* steps;
  std::int32_t* code_sums;
  std::uint8_t* mask;  ///< null: none
  std::int64_t code_stride, mask_stride;
};

// --- Scale ---

/// The numbers that turn a rotated row, still without its factor 1/sqrt(block), into codes.
struct CodeScale {
  float inverse_step;
  float limit;  ///< the mask passes |z| <= limit
  float step;   ///< NaN for a broken row
};

__device__ inline double mask_bound(const RowRule& rule, double rms) {
  const double outermost = rule.alpha * rms;
  if (rule.mask == static_cast<int>(Estimator::kClip)) {
    return rule.kappa * (outermost + rule.epsilon);
  }
  if (rule.mask == static_cast<int>(Estimator::kSte)) return HUGE_VAL;
  return outermost > rule.epsilon ? outermost * rule.trusted : -1.0;
}

__device__ inline CodeScale scale_of_row(const RowRule& rule, double square_sum) {
  const double mean_square = square_sum * rule.inverse_columns;
  if (!(mean_square <= 3.4e38)) return {0.0f, -1.0f, nanf("")};
  const double rms = sqrt(mean_square);
  const double step = rule.steps_per_clip_point * (rule.alpha * rms + rule.epsilon);
  return {static_cast<float>(rule.scale / step),
          static_cast<float>(mask_bound(rule, rms) * rule.inverse_scale), static_cast<float>(step)};
}

/// total += the sums of squares of a lane, in double, in the order of columns.
__device__ __forceinline__ void add_squares(double& total, const float* sums, int count) {
  const float* const own = sums + threadIdx.x % kLanes;
#pragma unroll 8
  for (int i = 0; i < count; ++i) total += double{own[i * kLanes]};
}

/// The sum over the 16 lanes, as a tree; every half of the warp has them all.
__device__ __forceinline__ double join_lanes(double sum) {
  for (int half = kLanes / 2; half >= 1; half /= 2) sum += __shfl_xor_sync(kAllLanes, sum, half);
  return sum;
}

// --- Codes and mask ---

/// floor(z inverse_step) between two codes, in bytes. Near 1.5 * 2^23 floats are the whole numbers,
/// so a sum there that is rounded down is a floor. From kOrigin on its lower half is 1.0 of 16 bits
/// for code 0 (a low byte of 0), and rises and falls with the code; kFarthest steps away it is
/// still a float of 16 bits above 0. Rows of up to kMostColumns hold nothing that is further: the
/// largest value is at most sqrt(columns) rms.
struct CodeMaker {
  static constexpr float kOrigin = 12582912.0f + 0x3c00;
  static constexpr float kFarthest = 15000.0f;
  float inverse_step;
  unsigned low, high;  // the halves of the least and the largest code, twice

  __device__ CodeMaker(const RowRule& rule, float inverse)
      : inverse_step(inverse),
        low(0x10001u * static_cast<unsigned>(0x3c00 + rule.min_code)),
        high(0x10001u * static_cast<unsigned>(0x3c00 + rule.max_code)) {}
  template <bool kAnyRow>
  __device__ __forceinline__ unsigned half(float z) const {
    float steps = z * inverse_step;
    if constexpr (kAnyRow) steps = fminf(fmaxf(steps, -kFarthest), kFarthest);
    return __float_as_uint(__fadd_rd(steps, kOrigin));
  }
  template <bool kAnyRow>
  __device__ __forceinline__ unsigned two(const float* z) const {
    const unsigned both = __byte_perm(half<kAnyRow>(z[0]), half<kAnyRow>(z[1]), 0x5410u);
    return lesser_halves(larger_halves(both, low), high);
  }
  /// Four codes in a word; kAnyRow: of a row of any length.
  template <bool kAnyRow>
  __device__ __forceinline__ unsigned four(const float* z) const {
    return __byte_perm(two<kAnyRow>(z), two<kAnyRow>(z + 2), 0x6420u);
  }
};

/// The low bytes of `codes`, kCount of them (1, 2 or 4), to the address `to`.
template <int kCount>
__device__ __forceinline__ void store_bytes(std::int8_t* to, unsigned codes) {
  using Word = std::conditional_t<kCount == 1, std::uint8_t,
                                  std::conditional_t<kCount == 2, std::uint16_t, std::uint32_t>>;
  *reinterpret_cast<Word*>(to) = static_cast<Word>(codes);
}

/// Writes the codes of rotated values of the group at column `first`; returns their sum.
template <typename Source, int kHeld>
__device__ __forceinline__ std::int32_t write_codes(std::int8_t* codes, const float (&z)[kHeld],
                                                    const CodeMaker& maker, int first,
                                                    int columns) {
  constexpr bool kAnyRow = !kWholeGroups<Source>;
  constexpr int kCount = kNeighbours<kHeld>;
  std::int8_t* const to = codes + first + first_held<kHeld>();
  std::int32_t sum = 0;
  unsigned words[kHeld / 4];
#pragma unroll
  for (int i = 0; i < kHeld; i += 4) {
    words[i / 4] = maker.four<kAnyRow>(z + i);
    sum = __dp4a(static_cast<int>(words[i / 4]), 0x01010101, sum);
  }
#pragma unroll
  for (int i = 0; i < kHeld; i += kCount) {
    if constexpr (kAnyRow) {
      const int left = columns - first - first_held<kHeld>() - place_of<kHeld>(i);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        if (k < left) {
          const unsigned code = words[(i + k) / 4] >> 8 * (k % 4) & 0xffu;
          to[place_of<kHeld>(i) + k] = static_cast<std::int8_t>(code);
        }
      }
    } else if (first < columns) {
      if constexpr (kCount == 8) {
        *reinterpret_cast<uint2*>(to + place_of<kHeld>(i)) =
            make_uint2(words[i / 4], words[i / 4 + 1]);
      } else {
        store_bytes<kCount>(to + place_of<kHeld>(i), words[i / 4] >> 8 * (i % 4));
      }
    }
  }
  return sum;
}

/// The bits of the thread's values i .. i + 31 that lie beyond `limit`, from the lowest on.
__device__ __forceinline__ unsigned beyond(const float* z, float limit) {
  unsigned bits = 0;
#pragma unroll
  for (int i = 31; i >= 0; --i) {
    bits = __funnelshift_l(__float_as_uint(limit - fabsf(z[i])), bits, 1);
  }
  return bits;
}

/// Writes the mask of the group at column `first`: |z| <= limit. All threads of the warp call it.
template <typename Source>
__device__ __forceinline__ void write_mask(std::uint8_t* mask, const float (&z)[kWide], float limit,
                                           int first, int columns) {
  const uint2 words = mask_in_order(make_uint2(~beyond(z, limit), ~beyond(z + 32, limit)));
  const int at = first + place_in_group<kWide>() * kWide;
  if (at >= columns) return;
  if constexpr (kWholeGroups<Source>) {
    *reinterpret_cast<uint2*>(mask + at / 8) = words;
  } else {
    const int left = columns - at;
    std::uint64_t bits = words.x | std::uint64_t{words.y} << 32;
    if (left < 64) bits &= (std::uint64_t{1} << left) - 1;
    for (int i = 0; i < 8 && 8 * i < left; ++i) {
      mask[at / 8 + i] = static_cast<std::uint8_t>(bits >> 8 * i & 0xffu);
    }
  }
}

}  // namespace quest::cuda
