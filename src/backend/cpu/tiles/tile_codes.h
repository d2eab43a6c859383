// Products of codes on tile registers, with plain or packed weights.
#pragma once

#include "backend/cpu/tiles/tile_product.h"

namespace quest {

/// What such a product works with.
struct ByteTileContext {
  Workspace& workspace;
  int threads;
  const ByteTileKernels& kernels;
};

/// out.y (= or +=) x w^T, as Backend::quantized_matmul and Backend::packed_matmul say: the integers
/// are exact and rounded in one way, so plain and packed weights give the same bits.
void multiply_codes(const ByteTileContext& context, const ProductOutput& out,
                    const QuantizedRows& x, const QuantizedRows& w);
void multiply_codes(const ByteTileContext& context, const ProductOutput& out,
                    const QuantizedRows& x, const PackedRows& w);

}  // namespace quest
