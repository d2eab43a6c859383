// What becomes of the sums of a product: scales, and rows of f32 or bf16 that are set or added to.
#pragma once

#include <type_traits>

#include "backend/cuda/device_rows.cuh"
#include "backend/cuda/float_instructions.cuh"

namespace quest::cuda {

struct WriteSum {
  FloatRows out;
  bool add;
  __device__ void operator()(std::int64_t i, std::int64_t j, float sum) const {
    out.write(i, j, sum, add);
  }
};

/// step_i step_j / 4 * sum of (2 qx + 1)(2 qw + 1), from the sum of qx qw. All of it fits 32 bits
/// for K <= 32768, though four times the sum of products alone may not: hence unsigned.
struct WriteQuantized {
  static constexpr bool kNeedsLeftSums = false;
  static constexpr int kDigits = 1;
  FloatRows out;
  bool add;
  const float* x_steps;
  const float* w_steps;
  const std::int32_t* x_sums;
  const std::int32_t* w_sums;
  std::int64_t columns;      ///< K
  unsigned code_offset = 0;  ///< by which the codes of w that were multiplied are too large

  /// What a row or a column adds to four times the sum, and its share of the scale.
  struct Line {
    unsigned integer;
    float scale;
  };
  __device__ Line row(std::int64_t i, std::int32_t) const {
    return {
        static_cast<unsigned>(x_sums[i]) * (2u - 4u * code_offset) + static_cast<unsigned>(columns),
        x_steps[i]};
  }
  __device__ Line column(std::int64_t j) const {
    return {2u * static_cast<unsigned>(w_sums[j]), w_steps[j] * 0.25f};
  }
  __device__ static float value(const Line& row, const Line& column, std::int32_t sum) {
    const unsigned total = 4u * static_cast<unsigned>(sum) + row.integer + column.integer;
    return static_cast<float>(static_cast<std::int32_t>(total)) * (row.scale * column.scale);
  }
  __device__ void operator()(std::int64_t i, std::int64_t j, std::int32_t sum) const {
    out.write(i, j, value(row(i, 0), column(j), sum), add);
  }
  __device__ void operator()(std::int64_t i, std::int64_t j, const std::int32_t (&sum)[1]) const {
    (*this)(i, j, sum[0]);
  }
};

/// scale_i * sum.
struct WriteLines {
  static constexpr bool kNeedsLeftSums = false;
  FloatRows out;
  bool add;
  const float* scales;

  struct Nothing {};
  __device__ float row(std::int64_t i, std::int32_t) const { return scales[i]; }
  __device__ static Nothing column(std::int64_t) { return {}; }
  __device__ static float value(float scale, Nothing, std::int32_t sum) {
    return static_cast<float>(sum) * scale;
  }
  __device__ void operator()(std::int64_t i, std::int64_t j, std::int32_t sum) const {
    out.write(i, j, value(scales[i], {}, sum), add);
  }
};

/// scale_i * sum of g (2 q + 1), from the sum of g q and that of row i's g.
struct WriteOddLines {
  static constexpr bool kNeedsLeftSums = true;
  FloatRows out;
  bool add;
  const float* scales;

  struct Line {
    unsigned integer;
    float scale;
  };
  struct Nothing {};
  __device__ Line row(std::int64_t i, std::int32_t left_sum) const {
    return {static_cast<unsigned>(left_sum), scales[i]};
  }
  __device__ static Nothing column(std::int64_t) { return {}; }
  __device__ static float value(const Line& row, Nothing, std::int32_t sum) {
    const unsigned total = 2u * static_cast<unsigned>(sum) + row.integer;
    return static_cast<float>(static_cast<std::int32_t>(total)) * row.scale;
  }
};

/// kCount (4 or 8) neighbouring values at a multiple of their bytes, as out.write does each.
template <int kCount>
__device__ void write_neighbours(const FloatRows& out, std::int64_t row, std::int64_t column,
                                 float (&values)[kCount], bool add) {
  const std::int64_t at = row * out.stride + column;
  if (out.bf16) {
    using Vector = std::conditional_t<kCount == 8, uint4, uint2>;
    auto* const to = reinterpret_cast<Vector*>(static_cast<std::uint16_t*>(out.data) + at);
    constexpr int kWords = kCount / 2;
    unsigned words[kWords];
    if (add) {
      const Vector before = *to;
      memcpy(words, &before, sizeof before);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        values[i] =
            bf16_to_float(static_cast<std::uint16_t>(words[i / 2] >> i % 2 * 16)) + values[i];
      }
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      words[i] = bf16_pair(values[2 * i], values[2 * i + 1]);
    }
    Vector after;
    memcpy(&after, words, sizeof after);
    *to = after;
    return;
  }
  auto* const to = reinterpret_cast<float4*>(static_cast<float*>(out.data) + at);
#pragma unroll
  for (int i = 0; i < kCount / 4; ++i) {
    float4 four =
        make_float4(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]);
    if (add) {
      const float4 before = to[i];
      four =
          make_float4(before.x + four.x, before.y + four.y, before.z + four.z, before.w + four.w);
    }
    to[i] = four;
  }
}

}  // namespace quest::cuda
