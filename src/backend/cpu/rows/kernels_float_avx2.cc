// Float kernels compiled for avx2.
#include "backend/cpu/rows/float_kernels.inc.h"

namespace quest {

extern const FloatKernels kFloatKernelsAvx2 = kKernels;

}  // namespace quest
