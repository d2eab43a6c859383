// The two gradients of the integer product as bf16 products that read codes, for instruction sets
// that have such kernels.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/workspace.h"

namespace quest {

/// What a product on host threads works with.
struct TileContext {
  Workspace& workspace;
  int threads;
  const Bf16Kernels& kernels;
};

/// Backend::quantized_matmul_grad_input for bf16 d_y. The quantized values are rounded to bf16.
void tile_grad_input(const TileContext& context, Tensor d_z, Tensor d_y, const QuantizedRows& w,
                     Write write);
/// Backend::quantized_matmul_grad_weight, likewise.
void tile_grad_weight(const TileContext& context, Tensor d_z, Tensor d_y, const QuantizedRows& x);

}  // namespace quest
