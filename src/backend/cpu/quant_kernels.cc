// The table of quantization kernels for an instruction set.
#include "backend/cpu/quant_kernels.h"

#include "backend/cpu/isa.h"

namespace quest {

const QuantKernels& quant_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return kQuantKernelsAvx512;
  if (isa == Isa::kAvx2) return kQuantKernelsAvx2;
#endif
  static_cast<void>(isa);
  return kQuantKernelsGeneric;
}

}  // namespace quest
