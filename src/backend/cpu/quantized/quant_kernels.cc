// The table of quantization kernels for an instruction set.
#include "backend/cpu/quantized/quant_kernels.h"

#include "backend/cpu/isa.h"
#include "backend/cpu/tiles/tile_kernels.h"

namespace quest {

#if defined(__x86_64__)
namespace {

/// Those of AVX-512, with tiles for all but a few rows of x.
QuantKernels with_tiles() {
  QuantKernels kernels = kQuantKernelsAvx512Bf16;
  kernels.bf16_tiles = &kBf16TilesAmx;
  kernels.byte_tiles = &kByteTilesAmx;
  kernels.rows = kRowKernelsAmx;
  return kernels;
}

}  // namespace
#endif

const QuantKernels& quant_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAmx) {
    static const QuantKernels amx = with_tiles();
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
