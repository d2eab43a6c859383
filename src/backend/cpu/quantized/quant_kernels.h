// QuantKernels: the quantization kernels of one instruction set, as a table of functions.
//
// Included by the files that are compiled for one instruction set, so nothing but plain types may
// stand here: no standard containers and no inline functions. Every function works on one row (or
// one tile) on the calling thread, and gives the same bits in every instruction set (RowKernels of
// AMX round in an order of their own, and tiles of bf16 add in one).
#pragma once

#include <cstdint>

#include "backend/cpu/quantized/row_kernels.h"

namespace quest {

enum class Isa : std::uint8_t;
struct RoundingKernels;
struct Bf16TileKernels;
struct ByteTileKernels;

/// Rows of an integer product against one panel: y[i,j] (= or +=) T[i,j] x_steps[i] w_scales[j],
/// where T[i,j] = sum_k (2 qx_ik + 1)(2 qw_jk + 1).
struct ProductStrip {
  const std::uint8_t* x;         ///< operand rows
  std::int64_t x_row_bytes;      ///< from one operand row to the next
  const std::uint8_t* panel;     ///< from pack_panel
  std::int64_t groups;           ///< groups of summed values
  std::int32_t rows;             ///< any number; only the last tile may be of less than tile_rows
  std::int32_t columns;          ///< 1..panel_columns
  const float* x_steps;          ///< [rows]
  const std::int32_t* x_sums;    ///< [rows] code sums
  const float* w_scales;         ///< [panel_columns] step / 4
  const std::int32_t* w_biases;  ///< [panel_columns] 2 code_sum + K
  FloatRow y;                    ///< element (0, 0)
  std::int64_t y_stride;         ///< elements from one row to the next
  bool add;
};

/// As ProductStrip, for a few rows of x: w is read where it lies, since packing would cost more
/// than the product.
struct DotTile {
  const std::uint8_t* x;     ///< offset rows, from pack_dot_row
  std::int64_t x_row_bytes;  ///< a multiple of 64
  const std::int8_t* w;      ///< codes
  std::int64_t w_row_bytes;
  std::int64_t k;              ///< summed values
  std::int32_t rows;           ///< 1..4
  std::int32_t columns;        ///< 1..4
  const float* x_steps;        ///< [rows]
  const std::int32_t* x_sums;  ///< [rows]
  const float* w_steps;        ///< [columns]
  const std::int32_t* w_sums;  ///< [columns]
  FloatRow y;                  ///< element (0, 0)
  std::int64_t y_stride;       ///< elements from one row to the next
  bool add;
};

/// The integer product of one instruction set on vectors. Operands are cut along K into groups:
/// four codes of 8 bits, or two odd integers of 16.
struct ProductKernels {
  std::int32_t tile_rows;
  std::int32_t panel_columns;
  std::int32_t group_values;     ///< values of K in a group
  std::int32_t group_bytes;      ///< bytes of a group of one row
  std::int64_t row_block_bytes;  ///< of x, which stay in a cache while all panels of w pass by
  bool reads_codes;              ///< x and integers need no packing where group_values divides K
  /// panel [groups * panel_columns * group_bytes] = codes of `rows` <= panel_columns rows of w in
  /// the order in which `strip` reads them, zeros where there is no row or no column.
  void (*pack_panel)(std::uint8_t* panel, const std::int8_t* codes, std::int64_t stride,
                     std::int64_t rows, std::int64_t columns);
  /// The same panel from the transpose of those codes, `rows` of `columns` <= panel_columns; null
  /// where they must be transposed first.
  void (*pack_panel_of_columns)(std::uint8_t* panel, const std::int8_t* codes, std::int64_t stride,
                                std::int64_t rows, std::int64_t columns);
  /// out [groups * group_bytes] = one row of x.
  void (*pack_row)(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns);
  /// The same for a row of integers g instead of codes: `strip` then makes
  /// T = 2 sum_k g_ik (2 qw_jk + 1), given the sums of g as x_sums and zeros as w_biases.
  void (*pack_integers)(std::uint8_t* out, const std::int8_t* integers, std::int64_t columns);
  void (*strip)(const ProductStrip& strip);
  /// out [K rounded up to 64] = one row of x for dot_tile, which is null where packing always pays.
  void (*pack_dot_row)(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns);
  void (*dot_tile)(const DotTile& tile);
};

struct QuantKernels {
  ProductKernels product;
  const RoundingKernels* rounding;
  const Bf16TileKernels* bf16_tiles;  ///< null where the CPU does not multiply bf16
  const ByteTileKernels* byte_tiles;  ///< null where the CPU has no tile registers
  RowKernels rows;
  /// to = (mask * d_z) H. `mask` null passes everything. The output may be the input.
  void (*rotate_row)(const RotatedRow& to, FloatRow d_z, const std::uint8_t* mask,
                     std::int64_t columns, std::int64_t block);
  /// to = ((codes + 1/2) step) H.
  void (*dequantize_row)(const RotatedRow& to, const std::int8_t* codes, float step,
                         std::int64_t columns, std::int64_t block);
};

/// Those for `isa`; they may run only where available_isas() holds it.
const QuantKernels& quant_kernels(Isa isa);

extern const QuantKernels kQuantKernelsGeneric;
extern const QuantKernels kQuantKernelsAvx2;
extern const QuantKernels kQuantKernelsAvx512;
/// The same bits from a CPU that converts to bf16 by itself, but for products in bf16.
extern const QuantKernels kQuantKernelsAvx512Bf16;

}  // namespace quest
