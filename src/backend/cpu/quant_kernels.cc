// The table of quantization kernels for an instruction set.
#include "backend/cpu/quant_kernels.h"

#include "backend/cpu/isa.h"
#include "backend/cpu/tile_kernels.h"

namespace quest {

#if defined(__x86_64__)
namespace {

/// Those of AVX-512, with tiles for all but a few rows of x.
QuantKernels with_product_amx() {
  QuantKernels kernels = kQuantKernelsAvx512Bf16;
  kernels.product = kProductAmx;
  kernels.tiles = &kTileKernelsAmx;
  kernels.product.pack_dot_row = kQuantKernelsAvx512Bf16.product.pack_dot_row;
  kernels.product.dot_tile = kQuantKernelsAvx512Bf16.product.dot_tile;
  return kernels;
}

}  // namespace
#endif

const QuantKernels& quant_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAmx) {
    static const QuantKernels amx = with_product_amx();
    return amx;
  }
  if (isa == Isa::kAvx512) {
    return __builtin_cpu_supports("avx512bf16") ? kQuantKernelsAvx512Bf16 : kQuantKernelsAvx512;
  }
  if (isa == Isa::kAvx2) return kQuantKernelsAvx2;
#endif
  static_cast<void>(isa);
  return kQuantKernelsGeneric;
}

}  // namespace quest
