// PackedKernels: products with packed weights of one instruction set, as a table of functions.
//
// Included by the files that are compiled for one instruction set, so nothing but plain types may
// stand here. All results are exact integers, so every instruction set gives the same bits.
#pragma once

#include <cstdint>

namespace quest {

enum class Isa : std::uint8_t;

/// Rows of x against rows of packed w.
struct PackedDot {
  const std::uint8_t* x;  ///< rows from pack_x (or pack_signs, or pack_bit_pairs)
  std::int64_t x_row_bytes;
  std::int64_t rows;      ///< of x, 1 or more
  const std::uint8_t* w;  ///< packed rows
  std::int64_t w_row_bytes;
  std::int64_t columns;   ///< rows of w, 1 or more
  std::int64_t k;         ///< summed values
  int bits;               ///< of w
  std::int32_t* sums;     ///< [rows][stride]
  std::int64_t stride;    ///< at least `columns` rounded up to 4
  std::uint8_t* scratch;  ///< [dot_scratch_bytes(k)], aligned to 64 bytes
  /// Of CPUs whose hardware follows loads best in the order of memory: rows of w are read one after
  /// another where that is possible. Else later rows are asked for from far.
  bool in_order;
};

/// Bytes of scratch that a dot product of `k` values needs.
static constexpr std::int64_t dot_scratch_bytes(std::int64_t k) { return 4 * (k + 128); }

/// Packed rows of one bit.
struct SignRows {
  const std::uint8_t* rows;
  std::int64_t stride;  ///< bytes from one to the next
  std::int64_t count;
  std::int64_t bytes;  ///< of a row
};

/// Planes of rows of x against planes of the columns of a panel; see xor_tile.
struct XorTile {
  const std::uint8_t* x;  ///< planes of rows, each of x_row_bytes
  std::int64_t x_row_bytes;
  const std::uint8_t* panel;  ///< from pack_sign_panel
  std::int64_t groups;        ///< 4-byte groups of bits
  std::int32_t planes;        ///< of a row of x: 1..4
  std::int32_t w_planes;      ///< of a row of w: 1 or 2
  std::int32_t rows;          ///< planes of x in all, 1..xor_rows
  std::int32_t columns;       ///< rows of w, 1..xor_columns / w_planes
  std::int32_t k;
  const float* x_steps;   ///< [rows / planes]
  const float* w_steps;   ///< [columns]
  void* y;                ///< element (0, 0)
  std::int64_t y_stride;  ///< elements from one row to the next
  bool bf16;
  bool add;
};

/// The end of a row of an integer product: y[j] (= or +=) T_j step w_steps[j] / 4, where
/// T_j = factor sums[j] + constant + 2 w_sums[j]. As floats these are the roundings of the integer
/// product on codes that are not packed.
struct FinishedRow {
  void* y;
  bool bf16;
  bool add;
  std::int64_t columns;
  const std::int32_t* sums;
  std::int32_t factor;
  std::int32_t constant;
  const std::int32_t* w_sums;  ///< null: 0
  float step;
  const float* w_steps;
};

/// The end of a row of a product with inputs of a few signed bytes, the digits of whole numbers:
/// y[j] = unit (whole_j + offset) w_steps[j] in doubles, rounded to float, where whole_j is the sum
/// of 256^d products[d][j]. All whole numbers are below 2^53, so exact.
struct FinishedDigits {
  float* y;
  std::int64_t columns;
  const std::int32_t* products[3];  ///< lowest digit first; the last null where there are two
  double unit;
  double offset;
  const float* w_steps;
};

struct PackedKernels {
  /// codes [columns] = a packed row, as quant/packing.h says.
  void (*unpack_row)(std::int8_t* codes, const std::uint8_t* packed, std::int64_t columns,
                     int bits);

  /// The layout of x that `dot` wants beside weights of `bits` bits: bytes a row, and one row.
  std::int64_t (*x_row_bytes)(std::int64_t columns, int bits);
  void (*pack_x)(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns, int bits);
  /// sums[i, j] = sum over k of u_jk qx_ik, where u = qw + 2^(bits-1) is the number in the file.
  void (*dot)(const PackedDot& dot);

  /// Rows of the signs of codes (1: not negative) as streams of bits, zeros up to whole 64 bytes.
  void (*pack_signs)(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns);
  /// The same of bit `place` of codes in two's complement; null where there is no xor_tile.
  void (*pack_place)(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns, int place);
  /// sums[i, j] = number of k where the bits of x and w differ; bits is 1.
  void (*xor_dot)(const PackedDot& dot);
  /// A row of codes of two bits as they lie in a file, zeros up to whole 64 bytes, then the same
  /// with the two bits of each code swapped: bit_pairs_row_bytes in all.
  void (*pack_bit_pairs)(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns);
  /// Of one row of x: sums[j] = (9 K - the sum over k of (2 qx + 1)(2 qw + 1)) / 2; bits is 2. Null
  /// where bits are not counted by an instruction.
  void (*xor_pairs_dot)(const PackedDot& dot);
  /// y (= or +=) the product of a tile of many rows; null where xor_dot does as well. A row of
  /// codes of b bits is b planes, 2 q + 1 = 2^(b-1) s + 2^(b-2) s' + ... with each of -1 and 1: s
  /// is 1 where q is not negative (pack_signs), then come the bits of the places below
  /// (pack_place). With two planes of w, the first half of the panel's columns has the signs of
  /// rows of w and the second half the lowest bits of the same rows.
  void (*xor_tile)(const XorTile& tile);
  /// panel [groups][xor_columns][4 bytes] = up to xor_columns rows, zeros where there is no row.
  void (*pack_sign_panel)(std::uint8_t* panel, const SignRows& rows);
  bool counts_bits;  ///< by an instruction; else with a table
  std::int32_t xor_rows;
  std::int32_t xor_columns;

  void (*finish_row)(const FinishedRow& row);
  void (*finish_digits)(const FinishedDigits& row);
};

/// `dot` on tile registers, for weights of 1, 2, 4 and 8 bits.
struct PackedTileKernels {
  /// Rows of x from which tiles pay.
  std::int64_t least_rows;
  /// Bytes of `rows` rows from PackedKernels::pack_x as tiles, and the tiles, aligned to 64 bytes.
  std::int64_t (*tile_bytes)(std::int64_t x_row_bytes, std::int64_t rows);
  void (*pack_tiles)(std::uint8_t* out, const std::uint8_t* x, std::int64_t x_row_bytes,
                     std::int64_t rows);
  /// The sums of PackedKernels::dot; dot.x are tiles, and there is no scratch.
  void (*dot)(const PackedDot& dot);
};

/// Bytes of a row of signs.
static constexpr std::int64_t sign_row_bytes(std::int64_t columns) {
  return (columns + 511) / 512 * 64;
}

/// Bytes of a row from pack_bit_pairs.
static constexpr std::int64_t bit_pairs_row_bytes(std::int64_t columns) {
  return (columns + 255) / 256 * 128;
}

/// Those for `isa`, with the extensions that this CPU has; they may run only where
/// available_isas() holds it.
const PackedKernels& packed_kernels(Isa isa);

/// Null where `isa` has no tiles. x is packed by the functions of packed_kernels(isa).
const PackedTileKernels* packed_tile_kernels(Isa isa);

extern const PackedKernels kPackedKernelsGeneric;
extern const PackedKernels kPackedKernelsAvx2;
extern const PackedKernels kPackedKernelsAvx512;
/// For CPUs with VBMI and VPOPCNTDQ too.
extern const PackedKernels kPackedKernelsAvx512Bits;
extern const PackedKernels kPackedKernelsAvx512BitsBf16;
extern const PackedTileKernels kPackedTileKernelsAmx;

}  // namespace quest
