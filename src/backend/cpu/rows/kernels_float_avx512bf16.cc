// Float kernels compiled for avx512 and AVX512_BF16, whose conversion to bf16 they use.
#include "backend/cpu/rows/float_kernels.inc.h"

namespace quest {

extern const FloatKernels kFloatKernelsAvx512Bf16 = kKernels;

}  // namespace quest
