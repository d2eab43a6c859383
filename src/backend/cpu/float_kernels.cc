// The table of float kernels for an instruction set.
#include "backend/cpu/float_kernels.h"

#include "backend/cpu/isa.h"

namespace quest {

const FloatKernels& float_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return kFloatKernelsAvx512;
  if (isa == Isa::kAvx2) return kFloatKernelsAvx2;
#endif
  static_cast<void>(isa);
  return kFloatKernelsGeneric;
}

}  // namespace quest
