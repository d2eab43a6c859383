// RowKernels: passes over rows that quantize them and take gradients back, as a table of functions.
//
// Included by the files that are compiled for one instruction set, so nothing but plain types may
// stand here: no standard containers and no inline functions.
#pragma once

#include <cstdint>

#include "backend/cpu/float_row.h"

namespace quest {

/// A RowQuantizer as plain numbers.
struct RowRule {
  enum Mask : std::uint8_t { kTrust, kClip, kAll };

  std::int64_t columns;  ///< K
  std::int64_t block;    ///< Hadamard block; a power of two that divides K, 1 for no rotation
  double alpha;
  double epsilon;
  double kappa;
  std::int32_t min_code;
  std::int32_t max_code;
  Mask mask;
};

/// Where a quantized row goes.
struct RowCodes {
  std::int8_t* codes;      ///< [K]
  std::uint8_t* mask;      ///< [ceil(K/8)] or null
  float* step;             ///< [1]
  std::int32_t* code_sum;  ///< [1]
  float* rotated;          ///< scratch [scratch_columns(K)], aligned to 64 bytes
};

/// Floats of scratch memory that a row of `columns` needs.
static constexpr std::int64_t scratch_columns(std::int64_t columns) {
  return (columns + 127) / 64 * 64;
}

/// How a row was left by rotate_for_codes: whole, with stages of the rotation for the step of the
/// codes to do, or with the values of each 32 columns as interleaved_rows_avx512.inc.h orders them.
enum class RotatedAs : std::uint8_t { kWhole, kHalf, kInterleaved };

struct Rotated {
  double rms;  ///< NaN where the mean square is not finite in f32
  RotatedAs as;
};

/// How the codes of a rotated row are found, and its mask: not at all, by the cells of the
/// outermost codes, or by a bound on the value. A broken row holds a value that is not finite.
enum class MaskBy : std::uint8_t { kNothing, kCells, kBound, kBroken };

/// The numbers that turn a rotated row, still without its factor 1/sqrt(block), into codes.
struct CodeScale {
  float inverse_step;  ///< code = floor(z inverse_step)
  float limit;         ///< MaskBy::kBound passes |z| <= limit
  MaskBy mask_by;
  RotatedAs rotated_as;
};

/// Where a rotated row goes: out = (or +=, where `add`) the row.
struct RotatedRow {
  FloatRow out;
  bool add;
  float* scratch;  ///< [scratch_columns(K)], aligned to 64 bytes
};

/// Rows of one pass, between begin() and end() on the same thread.
struct RowKernels {
  void (*begin)();
  void (*end)();
  /// One row of Backend::quantize_rows in three steps, so that those of other rows can stand
  /// between them: the first sets `rotated`, the second the step, the third all else. The sum of
  /// squares is taken in f32 over parts of a row and in f64 over these; a row whose squares
  /// overflow f32 counts as infinite.
  Rotated (*rotate_for_codes)(const RowCodes& to, FloatRow x, const RowRule& rule);
  CodeScale (*code_scale)(const RowCodes& to, const RowRule& rule, Rotated rotated);
  void (*codes_of_rotated)(const RowCodes& to, const RowRule& rule, const CodeScale& scale);
  /// QuantKernels::rotate_row, to f32 rounding.
  void (*rotate_row)(const RotatedRow& to, FloatRow d_z, const std::uint8_t* mask,
                     std::int64_t columns, std::int64_t block);
};

/// Rotates rows of bf16 in blocks of 128 on tiles, and all others as AVX-512 does.
extern const RowKernels kRowKernelsAmx;

}  // namespace quest
