// Float kernels compiled for generic.
#include "backend/cpu/rows/float_kernels.inc.h"

namespace quest {

extern const FloatKernels kFloatKernelsGeneric = kKernels;

}  // namespace quest
