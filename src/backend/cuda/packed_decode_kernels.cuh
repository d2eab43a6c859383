// Products of a few rows with packed weights of 1, 2, 4 or 8 bits: what decoding waits for. Weights
// go from memory to registers, 16 bytes a load, and are multiplied there. The rows are codes, or
// floats as whole numbers of two or three digits, each a row of codes to itself.
#pragma once

#include "backend/cuda/product_outputs.cuh"
#include "backend/cuda/tensor_core.cuh"

namespace quest::cuda {

inline constexpr int kDecodeRows = 16;      // of codes, of a block
inline constexpr int kMostDecodeRows = 64;  // beyond which tiles of 64 columns are as many blocks
inline constexpr int kDecodeTiles = 2;      // of eight columns, that are multiplied at once
inline constexpr int kDecodeColumns = 8 * kDecodeTiles;
inline constexpr int kDecodeWarps = 8;   // of a block, at most: they divide the sum among them
inline constexpr int kDecodeGroups = 2;  // of four chunks, whose weights a warp loads at once

/// Rows of packed codes and of x: at multiples of 16 bytes, and rows of weights of whole ones.
struct DecodeFactors {
  const std::int8_t* x;
  const std::uint8_t* w;
  std::int64_t x_stride, w_stride;
  std::int64_t columns;  ///< rows of w
  std::int64_t rows;     ///< of x
  int rows_a_block;      ///< of those, at most kDecodeRows, all digits of a row together
  int chunks;            ///< of 16 bytes, of a row of w
};

/// w[b] = byte b of the four words.
__device__ inline void transpose_bytes(unsigned& w0, unsigned& w1, unsigned& w2, unsigned& w3) {
  const unsigned low01 = __byte_perm(w0, w1, 0x5140), low23 = __byte_perm(w2, w3, 0x5140);
  const unsigned high01 = __byte_perm(w0, w1, 0x7362), high23 = __byte_perm(w2, w3, 0x7362);
  w0 = __byte_perm(low01, low23, 0x5410);
  w1 = __byte_perm(low01, low23, 0x7632);
  w2 = __byte_perm(high01, high23, 0x5410);
  w3 = __byte_perm(high01, high23, 0x7632);
}

/// How 16 bytes of weights become right factors without being put in order. A product of 32 places
/// takes four codes from each of two words, one from each byte: those of the same bits of a word
/// and of the word moved by four bits. It leaves them where they are in their bytes: products at
/// bit kBits * s have sums of their own, which are divided by 2^(kBits * s) in the end. So codes
/// cost half an operation each, or less. x is put in the order in which they come; two tiles share
/// that.
template <int kBits>
struct DecodeUnits {
  static constexpr int kScales = kBits >= 4 ? 1 : 4 / kBits;  // products of a unit
  static constexpr int kUnitWords = kBits == 8 ? 2 : 1;
  static constexpr int kUnits = 4 / kUnitWords;                  // of 16 bytes
  static constexpr int kXWords = 2 * kScales;                    // of a unit, for one row of x
  static constexpr int kPieceWords = kXWords < 4 ? 4 : kXWords;  // whole loads of x
  static constexpr int kPieceUnits = kPieceWords / kXWords;
  static constexpr int kPieces = kUnits / kPieceUnits;

  /// Places of product s, as words 2 s and 2 s + 1, from codes of x in their order.
  __device__ static void arrange(unsigned* x) {
    if constexpr (kBits == 4) {
      const unsigned even = __byte_perm(x[0], x[1], 0x6420);
      x[1] = __byte_perm(x[0], x[1], 0x7531);
      x[0] = even;
    } else if constexpr (kBits == 2) {
      transpose_bytes(x[0], x[1], x[2], x[3]);
      const unsigned one = x[1];
      x[1] = x[2];
      x[2] = one;
    } else if constexpr (kBits == 1) {
      transpose_bytes(x[0], x[2], x[4], x[6]);
      transpose_bytes(x[1], x[3], x[5], x[7]);
    }
  }
  /// The two words of product s.
  __device__ static uint2 factors(const unsigned (&words)[4], int unit, int s) {
    if constexpr (kBits == 8) return make_uint2(words[2 * unit], words[2 * unit + 1]);
    const unsigned mask = ((1u << kBits) - 1) * 0x01010101u << kBits * s;
    return make_uint2(words[unit] & mask, words[unit] >> 4 & mask);
  }
};

/// Sums of a warp: [bit of a code's byte][eight rows of x][as multiply_add holds them], where rows
/// are columns of w and columns are rows of x.
template <int kBits, int kHalves>
using DecodeSums = std::int32_t[DecodeUnits<kBits>::kScales][kHalves][4];

/// Sixteen bytes, or zeros.
__device__ inline uint4 load_if(bool inside, const void* from) {
  return inside ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
}

/// Adds the products of one chunk of each of a lane's rows. Lane 4 g + t has chunk 4 group + t of
/// column g of each tile and, in x(half, byte), sixteen codes of row g + 8 half of x from a byte of
/// the same chunk on; kArranged: as Units::arrange leaves them.
template <int kBits, int kHalves, bool kArranged, typename X>
__device__ __forceinline__ void multiply_chunk(DecodeSums<kBits, kHalves>& sums,
                                               const uint4 (&weights)[kDecodeTiles], const X& x) {
  using Units = DecodeUnits<kBits>;
  const unsigned low[] = {weights[0].x, weights[0].y, weights[0].z, weights[0].w};
  const unsigned high[] = {weights[1].x, weights[1].y, weights[1].z, weights[1].w};
#pragma unroll
  for (int piece = 0; piece < Units::kPieces; ++piece) {
    unsigned codes[kHalves][Units::kPieceWords];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
#pragma unroll
      for (int i = 0; i < Units::kPieceWords; i += 4) {
        const uint4 four = x(half, (piece * Units::kPieceWords + i) * 4);
        codes[half][i] = four.x;
        codes[half][i + 1] = four.y;
        codes[half][i + 2] = four.z;
        codes[half][i + 3] = four.w;
      }
#pragma unroll
      for (int unit = 0; unit < Units::kPieceUnits && !kArranged; ++unit) {
        Units::arrange(codes[half] + unit * Units::kXWords);
      }
    }
#pragma unroll
    for (int unit = 0; unit < Units::kPieceUnits; ++unit) {
#pragma unroll
      for (int s = 0; s < Units::kScales; ++s) {
        const int at = unit * Units::kXWords + 2 * s;
        const uint2 first = Units::factors(low, piece * Units::kPieceUnits + unit, s);
        const uint2 second = Units::factors(high, piece * Units::kPieceUnits + unit, s);
        const unsigned a[4] = {first.x, second.x, first.y, second.y};
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          multiply_unsigned_add(sums[s][half], a, codes[half][at], codes[half][at + 1]);
        }
      }
    }
  }
}

/// The sum of place i of what a lane holds for eight rows of x, all bits of bytes together.
template <int kBits, int kHalves>
__device__ __forceinline__ std::int32_t joined_sum(const DecodeSums<kBits, kHalves>& sums, int half,
                                                   int i) {
  std::int32_t sum = 0;
#pragma unroll
  for (int s = 0; s < DecodeUnits<kBits>::kScales; ++s) sum += sums[s][half][i] >> kBits * s;
  return sum;
}

/// A float output from a row of x that is unit * (256^(kDigits - 1) d + ...), where d are its
/// digits from the highest on: step_n unit_i * sum over k of (the number)(q + 1/2), for one
/// rounding.
template <int kDigits_>
struct WriteFixedPoint {
  static constexpr int kDigits = kDigits_;
  FloatRows out;
  bool add;
  const float* w_steps;
  const double* units;       ///< NaN for a broken row
  const std::int64_t* sums;  ///< of the numbers of a row
  double offset;             ///< 1/2 less what the codes that are multiplied are too large by

  __device__ void operator()(std::int64_t i, std::int64_t n,
                             const std::int32_t (&digits)[kDigits]) const {
    double sum = 0;
    for (const std::int32_t digit : digits) sum = sum * 256.0 + digit;
    sum += offset * static_cast<double>(sums[i]);
    out.write(i, n, static_cast<float>(units[i] * w_steps[n] * sum), add);
  }
};

/// write(i, n, {sum over the codes of x and the unsigned codes of w, for each digit}) for the rows
/// of x and 16 columns n a block. kHalves: eights of rows of x. Grid: blocks of rows, which share
/// weights, then the next sixteen columns.
template <int kBits, int kHalves, typename Write>
__global__ void __launch_bounds__(32 * kDecodeWarps)
    packed_decode_kernel(DecodeFactors f, Write write) {
  admit_next_kernel();
  constexpr int kDigits = Write::kDigits;
  __shared__ std::int32_t parts[kDecodeWarps][8 * kHalves][kDecodeColumns + 1];
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  const auto row_blocks = static_cast<unsigned>((f.rows + f.rows_a_block - 1) / f.rows_a_block);
  const std::int64_t first = std::int64_t{blockIdx.x / row_blocks} * kDecodeColumns;
  const std::int64_t first_row = std::int64_t{blockIdx.x % row_blocks} * f.rows_a_block;
  const std::int64_t rows_left = f.rows - first_row;
  const int rows = rows_left < f.rows_a_block ? static_cast<int>(rows_left) : f.rows_a_block;
  const std::int8_t* const x_rows = f.x + first_row * f.x_stride;
  const int groups = (f.chunks + 3) / 4;
  uint4 weights[kDecodeGroups][kDecodeTiles];
  const auto load_weights = [&](int group) {
#pragma unroll
    for (int ahead = 0; ahead < kDecodeGroups; ++ahead) {
#pragma unroll
      for (int tile = 0; tile < kDecodeTiles; ++tile) {
        const int chunk = 4 * (group + ahead * warps) + t;
        const std::int64_t n = first + 8 * tile + g;
        weights[ahead][tile] = chunk < f.chunks && n < f.columns
                                   ? load_constant(f.w + n * f.w_stride + std::int64_t{chunk} * 16)
                                   : make_uint4(0, 0, 0, 0);
      }
    }
  };
  // Weights come while the kernel before, which makes x, still works.
  load_weights(warp);
  await_last_kernel();
  DecodeSums<kBits, kHalves> sums = {};
  for (int group = warp; group < groups; group += kDecodeGroups * warps) {
#pragma unroll
    for (int ahead = 0; ahead < kDecodeGroups; ++ahead) {
      const int chunk = 4 * (group + ahead * warps) + t;
      if (group + ahead * warps < groups) {
        multiply_chunk<kBits, kHalves, false>(sums, weights[ahead], [&](int half, int byte) {
          const int row = g + 8 * half;
          return load_if(chunk < f.chunks && row < rows,
                         x_rows + row * f.x_stride + std::int64_t{chunk} * (128 / kBits) + byte);
        });
      }
    }
    load_weights(group + kDecodeGroups * warps);
  }
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      parts[warp][8 * half + 2 * t + i % 2][g + i / 2 * 8] =
          joined_sum<kBits, kHalves>(sums, half, i);
    }
  }
  __syncthreads();
  for (int output = static_cast<int>(threadIdx.x); output < rows / kDigits * kDecodeColumns;
       output += static_cast<int>(blockDim.x)) {
    const int row = output / kDecodeColumns, column = output % kDecodeColumns;
    if (first + column >= f.columns) continue;
    std::int32_t digits[kDigits] = {};
    for (int i = 0; i < warps; ++i) {
#pragma unroll
      for (int digit = 0; digit < kDigits; ++digit) {
        digits[digit] += parts[i][kDigits * row + digit][column];
      }
    }
    write(first_row / kDigits + row, first + column, digits);
  }
}

/// Rows of floats as whole numbers of kDigits signed bytes, highest first: digits[i kDigits + d].
/// A row's largest magnitude is the largest number of so many digits. A block a row.
template <int kDigits>
__global__ void __launch_bounds__(256)
    fixed_point_rows_kernel(FloatRows x, std::int8_t* digits, double* units, std::int64_t* sums,
                            std::int64_t columns, std::int64_t stride) {
  follow_last_kernel();
  const std::int64_t i = blockIdx.x;
  float largest = 0.0f;
  for (std::int64_t k = threadIdx.x; k < columns; k += blockDim.x) {
    largest = Larger()(largest, fabsf(x.load(i, k)));
  }
  largest = block_join(largest, Larger());
  constexpr double kMost = kDigits == 2 ? 127 * 256 + 127 : (127 * 256 + 127) * 256 + 127;
  const bool finite = largest <= 3.402823466e38f;
  const double unit = static_cast<double>(largest) / kMost;
  const double per_unit = finite && largest > 0.0f ? 1.0 / unit : 0.0;
  std::int64_t sum = 0;
  for (std::int64_t k = threadIdx.x; k < columns; k += blockDim.x) {
    auto value = per_unit == 0.0 ? 0 : static_cast<std::int32_t>(rint(x.load(i, k) * per_unit));
    sum += value;
    for (int digit = kDigits - 1; digit >= 0; --digit) {
      const auto low = static_cast<std::int8_t>(value & 0xff);
      digits[(i * kDigits + digit) * stride + k] = low;
      value = (value - low) >> 8;
    }
  }
  sum = block_join(sum, Plus());
  if (threadIdx.x == 0) {
    units[i] = finite ? unit : static_cast<double>(nanf(""));
    sums[i] = sum;
  }
}

}  // namespace quest::cuda
