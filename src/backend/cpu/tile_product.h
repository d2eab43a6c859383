// Matrix products on tile registers: packing, blocking and threads.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/tile_kernels.h"
#include "backend/cpu/workspace.h"

namespace quest {

/// What a product on host threads works with.
struct TileContext {
  Workspace& workspace;
  int threads;
  const TileKernels& kernels;
};

/// out [a.lanes, b.lanes] (= or +=) the values of a's rows times b's columns. The order of sums
/// depends on the number of summed values only.
struct TileProduct {
  TileSource a;
  TileSource b;
  Tensor out;
  Write write;
  /// For products of bytes: arrays as long as out has rows and columns.
  const TileScales* scales = nullptr;
};

void multiply_tiles(const TileContext& context, const TileProduct& product);

/// A TileSource whose lanes are the rows of a matrix.
TileSource rows_source(Tensor x, PackTiles pack);
/// A TileSource whose lanes are the columns of a matrix.
TileSource columns_source(Tensor x, PackTiles pack);

}  // namespace quest
