// Bf16TileKernels and ByteTileKernels: matrix products in tiles, as tables of functions.
//
// Included by files that are compiled for one instruction set, so nothing but plain types may stand
// here. Operands are cut into bundles of 32 rows of the first, or 32 columns of the second, and
// along the summed values into groups of 64 bytes a row; a packed group of a bundle is two tiles.
// bf16 sums are f32, and bits may differ from other ways to add them; sums of bytes are exact.
#pragma once

#include <cstdint>

#include "backend/cpu/float_row.h"

namespace quest {

static constexpr std::int64_t kTileLanes = 32;         ///< rows or columns of a bundle
static constexpr std::int64_t kTileGroupBytes = 2048;  ///< of a bundle's group, packed
static constexpr std::int64_t kTileDepthBytes = 64;    ///< of a group in one row or column

struct TileSource;
/// Bundles of an operand from lane `lane` on, and their groups from `group` on.
struct TilePart {
  std::int64_t lane, bundles, group, groups;
};
/// out [bundles][groups][kTileGroupBytes] = a part, zeros where there is no lane or no value.
using PackTiles = void (*)(std::uint8_t* out, const TileSource& source, const TilePart& part);

/// An operand in memory. Its lanes are the rows of the first operand, the columns of the second.
struct TileSource {
  const void* data;     ///< lane 0, summed value 0
  std::int64_t stride;  ///< elements from one row in memory to the next
  std::int64_t lanes;
  std::int64_t summed;  ///< values in the sum
  bool lanes_are_rows;  ///< in memory; else they are columns there
  const float* steps;   ///< [summed] scales of codes, where packing expands them
  PackTiles pack;       ///< null: rows that are read where they lie, whole groups
  int bits = 8;         ///< of codes; packed ones have rows `stride` bytes apart
};

/// How sums become an output: value = sum for bf16 products; for bytes
/// value = (sum * 2^shift + row_biases[i] + column_biases[j]) * (row_scales[i] * column_scales[j]),
/// the integer exact, each product of floats rounded.
struct TileScales {
  std::int32_t shift;
  const std::int32_t* row_biases;
  const std::int32_t* column_biases;
  const float* row_scales;
  const float* column_scales;
};

/// Memory that is packed next, in lines that lie apart: it is fetched while tiles multiply.
struct LinesAhead {
  const std::uint8_t* data = nullptr;
  std::int64_t stride = 0;  ///< bytes from one row to the next
  std::int64_t lines = 0;   ///< of 64 bytes in each row
  std::int64_t rows = 0;
};

/// One bundle of rows against a block of packed bundles of columns.
struct TileStrip {
  const std::uint8_t* a;     ///< packed, kept in the first-level cache; or rows where they lie
  std::int64_t a_row_bytes;  ///< from one such row to the next, 0 where a is packed
  bool a_lanes_are_rows;     ///< in memory: which packer packed a
  const std::uint8_t* b;     ///< packed, read from the second-level cache
  std::int64_t groups;       ///< of both
  std::int32_t rows;         ///< 1..32
  std::int64_t columns;      ///< of the block
  void* partial;             ///< sums [bundles of columns][32][32] from and for other groups
  bool reads_partial;        ///< adds them
  bool writes_partial;       ///< stores there; else to out
  FloatRow out;              ///< element (0, 0)
  std::int64_t out_stride;
  bool add;      ///< to what stands in out
  bool streams;  ///< whole lines of out past the caches; out is f32, its rows begin with a line
  LinesAhead ahead;
  TileScales scales;  ///< from row 0 and column 0 on; whole bundles of columns
};

/// Products of bf16 values.
struct Bf16TileKernels {
  /// Rows of the first operand from which packing the second pays.
  std::int64_t least_rows;
  /// Whether `multiply` has no tile registers, and can read rows of the first operand where they
  /// lie.
  bool in_vectors;
  // Packers of the first operand: memory rows are its rows, or its columns.
  PackTiles pack_rows;
  PackTiles pack_columns;
  // Packers of the second operand: memory rows are its columns, or its rows.
  PackTiles pack_transposed;
  PackTiles pack_pairs;
  /// The values (codes + 1/2) step, rounded to bf16, of rows of codes.
  PackTiles pack_pairs_codes;
  void (*multiply)(const TileStrip& strip);
};

/// Products of bytes.
struct ByteTileKernels {
  PackTiles pack_rows;
  PackTiles pack_transposed;
  /// Rows of packed weights, unpacked to codes.
  PackTiles pack_transposed_packed;
  PackTiles pack_quads;
  void (*multiply)(const TileStrip& strip);
};

extern const Bf16TileKernels kBf16TilesAmx;
extern const ByteTileKernels kByteTilesAmx;
/// On vectors.
extern const Bf16TileKernels kBf16TilesAvx512;

}  // namespace quest
