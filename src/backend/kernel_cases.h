// The sizes and inputs on which kernels are checked and timed, one list for both.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/backend.h"
#include "core/rng.h"

namespace quest {

/// Row lengths: around the vector lengths and the Hadamard block, and widths of real models.
inline constexpr std::array<std::int64_t, 14> kColumnCases{1,   3,   8,   16,  24,  64,  96,
                                                           127, 128, 129, 256, 320, 640, 1000};
/// Sizes of a product.
struct ProductCase {
  std::int64_t m, n, k;
};
/// Small ones for checks: every remainder of a register tile occurs.
inline constexpr std::array<ProductCase, 18> kProductCases{{{1, 1, 1},
                                                            {1, 3, 3},
                                                            {3, 1, 127},
                                                            {1, 64, 128},
                                                            {2, 65, 129},
                                                            {4, 129, 64},
                                                            {5, 31, 100},
                                                            {7, 127, 256},
                                                            {11, 33, 640},
                                                            {12, 32, 130},
                                                            {13, 48, 131},
                                                            {16, 16, 512},
                                                            {17, 100, 96},
                                                            {33, 257, 384},
                                                            {64, 128, 128},
                                                            {39, 35, 68},
                                                            {47, 129, 131},
                                                            {130, 70, 256}}};
/// Those that decide the speed of training (2048 tokens, the published widths) and of decoding
/// (some sequences side by side, then one: weights that stay in a cache, and weights that do not).
inline constexpr std::array<ProductCase, 9> kProductSpeedCases{{{2048, 640, 640},
                                                                {2048, 1792, 640},
                                                                {2048, 640, 1792},
                                                                {2048, 1024, 1024},
                                                                {2048, 2048, 2048},
                                                                {16, 2048, 2048},
                                                                {4, 2048, 2048},
                                                                {1, 2048, 2048},
                                                                {1, 16384, 2048}}};
/// Sizes of kernels that work row by row: from a second-level cache, and the widths of a step.
struct RowCase {
  std::int64_t rows, columns;
};
inline constexpr std::array<RowCase, 3> kRowSpeedCases{{{64, 1024}, {2048, 640}, {2048, 2816}}};
/// Causal attention as training calls it.
inline constexpr std::array<AttentionShape, 5> kAttentionSpeedCases{
    {{16, 128, 128, 128, 4, 4, 64},
     {4, 512, 512, 512, 10, 10, 64},
     {4, 512, 512, 512, 5, 5, 128},
     {1, 2048, 2048, 2048, 4, 4, 64},
     {1, 2048, 2048, 2048, 4, 4, 128}}};

/// A tensor that owns its memory, aligned to 64 bytes, zeroed.
class OwnedTensor {
 public:
  OwnedTensor(Shape shape, DType dtype)
      : bytes_(static_cast<std::size_t>(shape.numel()) * size_bytes(dtype) + 64) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
    tensor_ = Tensor(bytes_.data() + (64 - address % 64) % 64, shape, dtype);
  }
  OwnedTensor(OwnedTensor&&) = default;
  OwnedTensor& operator=(OwnedTensor&&) = default;
  OwnedTensor(const OwnedTensor&) = delete;
  OwnedTensor& operator=(const OwnedTensor&) = delete;

  Tensor view() const { return tensor_; }
  operator Tensor() const { return tensor_; }  // NOLINT: an owner stands wherever a view does.
  bool same_bytes(const OwnedTensor& other) const {
    return tensor_.bytes() == other.tensor_.bytes() &&
           std::memcmp(tensor_.data, other.tensor_.data, tensor_.bytes()) == 0;
  }

 private:
  std::vector<std::byte> bytes_;
  Tensor tensor_;
};

/// Normal values of standard deviation `scale` in a float tensor, which may be a column slice.
inline void fill_normal(Tensor x, std::uint64_t seed, double scale = 1.0) {
  Rng rng(seed, RngPurpose::kTest);
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    for (std::int64_t c = 0; c < x.cols(); ++c) {
      const auto value = static_cast<float>(scale * rng.normal());
      if (x.dtype == DType::kF32) {
        x.row<float>(r)[c] = value;
      } else {
        x.row<BFloat16>(r)[c] = to_bfloat16(value);
      }
    }
  }
}

/// Element (r, c) of a float tensor.
inline double element(Tensor x, std::int64_t r, std::int64_t c) {
  if (x.dtype == DType::kF32) return double{x.row<float>(r)[c]};
  return double{to_float(x.row<BFloat16>(r)[c])};
}

/// Quantized rows that own their memory.
struct OwnedQuantizedRows {
  OwnedTensor codes, steps, code_sums, mask;

  OwnedQuantizedRows(std::int64_t rows, std::int64_t columns)
      : codes({rows, columns}, DType::kI8),
        steps({rows}, DType::kF32),
        code_sums({rows}, DType::kI32),
        mask({rows, (columns + 7) / 8}, DType::kU8) {}
  QuantizedRows view(bool with_mask = true) const {
    return {codes, steps, code_sums, with_mask ? mask.view() : Tensor()};
  }
  bool same_bytes(const OwnedQuantizedRows& other) const {
    return codes.same_bytes(other.codes) && steps.same_bytes(other.steps) &&
           code_sums.same_bytes(other.code_sums) && mask.same_bytes(other.mask);
  }
};

/// Codes drawn from [low, high], their sums, and steps: 2, or different ones.
inline OwnedQuantizedRows random_codes(std::int64_t rows, std::int64_t columns, int low, int high,
                                       std::uint64_t seed, bool unit_steps) {
  OwnedQuantizedRows quantized(rows, columns);
  Rng rng(seed, RngPurpose::kTest);
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int32_t sum = 0;
    for (std::int64_t k = 0; k < columns; ++k) {
      const int code =
          low + static_cast<int>(rng.below(static_cast<std::uint64_t>(high - low + 1)));
      quantized.codes.view().row<std::int8_t>(r)[k] = static_cast<std::int8_t>(code);
      sum += code;
    }
    quantized.code_sums.view().as<std::int32_t>()[r] = sum;
    quantized.steps.view().as<float>()[r] =
        unit_steps ? 2.0f : static_cast<float>(0.1 + rng.uniform());
  }
  return quantized;
}
/// Codes of `bits` bits and different steps.
inline OwnedQuantizedRows random_codes(std::int64_t rows, std::int64_t columns, int bits,
                                       std::uint64_t seed) {
  return random_codes(rows, columns, -(1 << (bits - 1)), (1 << (bits - 1)) - 1, seed, false);
}

}  // namespace quest
