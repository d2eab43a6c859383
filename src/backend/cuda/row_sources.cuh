// Where the values of a row come from that is rotated or quantized: a tensor, codes, or a norm or
// SwiGLU that is computed on the way.
#pragma once

#include "backend/cuda/device_rows.cuh"
#include "quant/scheme.h"

namespace quest::cuda {

/// A source has `begin(row)`, which all threads of the block call once before `load`. Squares of
/// its values are exact in f32 where these have half its digits, as bf16 does.
struct PlainSource {
  FloatRows x;
  __device__ void begin(std::int64_t) {}
  __device__ bool exact_squares() const { return x.bf16; }
  __device__ float load(std::int64_t row, std::int64_t column) const { return x.load(row, column); }
};

/// mask * x; a null mask passes everything.
struct MaskedSource {
  FloatRows x;
  const std::uint8_t* mask;
  std::int64_t mask_stride;
  __device__ bool exact_squares() const { return x.bf16; }
  __device__ float load(std::int64_t row, std::int64_t column) const {
    const bool passes =
        mask == nullptr || (mask[row * mask_stride + column / 8] >> column % 8 & 1) != 0;
    return passes ? x.load(row, column) : 0.0f;
  }
};

/// (q + 1/2) step.
struct CodesSource {
  const std::int8_t* codes;
  const float* steps;
  std::int64_t stride;
  __device__ bool exact_squares() const { return false; }
  __device__ float load(std::int64_t row, std::int64_t column) const {
    return (static_cast<float>(codes[row * stride + column]) + 0.5f) * steps[row];
  }
};

/// Threads of a block that computes a norm: the order of its sum depends on them.
inline constexpr unsigned kNormThreads = 256;

/// x * rstd * weight, rounded to bf16 or not; sets rstd.
struct NormSource {
  FloatRows x;
  const float* weight;
  float* rstd;
  float epsilon;
  std::int64_t columns;
  bool bf16;
  float inverse = 0.0f;

  __device__ void begin(std::int64_t row) {
    float squares = 0.0f;
    for (std::int64_t c = threadIdx.x; c < columns; c += blockDim.x) {
      const float value = x.load(row, c);
      squares += value * value;
    }
    squares = block_join(squares, Plus());
    inverse = 1.0f / sqrtf(squares / static_cast<float>(columns) + epsilon);
    if (threadIdx.x == 0) rstd[row] = inverse;
  }
  __device__ bool exact_squares() const { return bf16; }
  __device__ float load(std::int64_t row, std::int64_t column) const {
    const float y = x.load(row, column) * inverse * weight[column];
    return bf16 ? bf16_to_float(float_to_bf16(y)) : y;
  }
};

/// silu(gate) * up, rounded to bf16 or not.
struct SwigluSource {
  FloatRows gate, up;
  bool bf16;

  __device__ void begin(std::int64_t) {}
  __device__ bool exact_squares() const { return bf16; }
  __device__ float load(std::int64_t row, std::int64_t column) const {
    const float g = gate.load(row, column);
    const float h = g / (1.0f + expf(-g)) * up.load(row, column);
    return bf16 ? bf16_to_float(float_to_bf16(h)) : h;
  }
};

}  // namespace quest::cuda
