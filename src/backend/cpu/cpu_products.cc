// CpuBackend: dense products.
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/tile_product.h"

namespace quest {
namespace {

/// The tile kernels that multiply operands of this type, or null.
const Bf16TileKernels* tiles_for(Isa isa, Tensor operand) {
  return operand.dtype == DType::kBF16 ? quant_kernels(isa).bf16_tiles : nullptr;
}

}  // namespace

void CpuBackend::matmul(Tensor y, Tensor x, Tensor w, Write write) {
  if (const Bf16TileKernels* const tiles = tiles_for(isa_, x)) {
    return multiply_tiles(
        {workspace_, threads_, tiles->multiply},
        {rows_source(x, tiles->pack_rows), rows_source(w, tiles->pack_transposed), y, write});
  }
  products_.multiply(y, {x}, {w, true}, write, workspace_);
}

void CpuBackend::matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) {
  if (const Bf16TileKernels* const tiles = tiles_for(isa_, d_y)) {
    return multiply_tiles(
        {workspace_, threads_, tiles->multiply},
        {rows_source(d_y, tiles->pack_rows), columns_source(w, tiles->pack_pairs), d_x, write});
  }
  products_.multiply(d_x, {d_y}, {w}, write, workspace_);
}

void CpuBackend::matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) {
  if (const Bf16TileKernels* const tiles = tiles_for(isa_, d_y)) {
    return multiply_tiles({workspace_, threads_, tiles->multiply},
                          {columns_source(d_y, tiles->pack_columns),
                           columns_source(x, tiles->pack_pairs), d_w, write});
  }
  products_.multiply(d_w, {d_y, true}, {x}, write, workspace_);
}

}  // namespace quest
