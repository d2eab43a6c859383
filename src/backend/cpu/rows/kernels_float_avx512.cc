// Float kernels compiled for avx512.
#include "backend/cpu/rows/float_kernels.inc.h"

namespace quest {

extern const FloatKernels kFloatKernelsAvx512 = kKernels;

}  // namespace quest
