// The table of packed kernels for an instruction set and its extensions.
#include "backend/cpu/packed/packed_kernels.h"

#include "backend/cpu/isa.h"

namespace quest {

const PackedKernels& packed_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) {
    const bool bits =
        __builtin_cpu_supports("avx512vbmi") != 0 && __builtin_cpu_supports("avx512vpopcntdq") != 0;
    if (!bits) return kPackedKernelsAvx512;
    return __builtin_cpu_supports("avx512bf16") != 0 ? kPackedKernelsAvx512BitsBf16
                                                     : kPackedKernelsAvx512Bits;
  }
  if (isa == Isa::kAvx2) return kPackedKernelsAvx2;
#endif
  static_cast<void>(isa);
  return kPackedKernelsGeneric;
}

const PackedTileKernels* packed_tile_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAmx) return &kPackedTileKernelsAmx;
#endif
  static_cast<void>(isa);
  return nullptr;
}

}  // namespace quest
