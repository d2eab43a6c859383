// The table of float kernels for an instruction set.
#include "backend/cpu/rows/float_kernels.h"

#include "backend/cpu/isa.h"

namespace quest {

const FloatKernels& float_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) {
    return __builtin_cpu_supports("avx512bf16") ? kFloatKernelsAvx512Bf16 : kFloatKernelsAvx512;
  }
  if (isa == Isa::kAvx2) return kFloatKernelsAvx2;
#endif
  static_cast<void>(isa);
  return kFloatKernelsGeneric;
}

}  // namespace quest
