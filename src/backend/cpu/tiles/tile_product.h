// Matrix products in tiles: packing, blocking and threads.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/product_output.h"
#include "backend/cpu/tiles/tile_kernels.h"
#include "backend/cpu/workspace.h"

namespace quest {

/// What a product on host threads works with.
struct TileContext {
  Workspace& workspace;
  int threads;
  void (*multiply)(const TileStrip& strip);
  bool in_vectors;  ///< as in Bf16TileKernels

  TileContext(Workspace& memory, int thread_count, const Bf16TileKernels& kernels)
      : workspace(memory),
        threads(thread_count),
        multiply(kernels.multiply),
        in_vectors(kernels.in_vectors) {}
  TileContext(Workspace& memory, int thread_count, const ByteTileKernels& kernels)
      : workspace(memory), threads(thread_count), multiply(kernels.multiply), in_vectors(false) {}
};

/// out.y [a.lanes, b.lanes] (= or +=) the values of a's rows times b's columns. The order of sums
/// depends on the number of summed values only.
struct TileProduct {
  TileSource a;
  TileSource b;
  ProductOutput out;
  /// For products of bytes: arrays as long as out has rows and columns.
  const TileScales* scales = nullptr;
};

/// Needs tile_scratch of its shape in Workspace's kTiles and kTileColumns.
void multiply_tiles(const TileContext& context, const TileProduct& product);

struct TileShape {
  std::int64_t rows, columns, summed;
  std::int64_t value_bytes;  ///< of operands
  bool in_vectors = false;   ///< as in Bf16TileKernels
};
/// Bytes of scratch memory.
struct TileScratch {
  std::int64_t blocks;   ///< of all threads
  std::int64_t columns;  ///< the second operand, packed, where that is done once for all
};
TileScratch tile_scratch(const TileShape& shape, int threads);

/// How a product is cut.
struct TileBlocks {
  std::int64_t passes;   ///< over the summed values
  std::int64_t columns;  ///< of a thread's largest block
};
TileBlocks tile_blocks(const TileShape& shape, int threads);

/// The kernels of `isa` that multiply `rows` rows of `type` in tiles; null where that is slower, or
/// there are none.
const Bf16TileKernels* bf16_tiles(Isa isa, DType type, std::int64_t rows);

/// A TileSource whose lanes are the rows of a matrix.
TileSource rows_source(Tensor x, PackTiles pack);
/// The same for the first operand of a product of bf16, read where it lies where that is faster.
TileSource first_rows_source(const Bf16TileKernels& tiles, Tensor x);
/// A TileSource whose lanes are the columns of a matrix.
TileSource columns_source(Tensor x, PackTiles pack);

}  // namespace quest
