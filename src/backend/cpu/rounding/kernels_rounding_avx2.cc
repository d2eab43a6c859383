// Rounding of gradients compiled for avx2.
#include "backend/cpu/rounding/rounding_kernels.h"
#include "core/philox_constants.h"
// The shared text stands on the names of both.
#include "backend/cpu/rounding/put_lines.inc.h"
#include "backend/cpu/rounding/round_gradients.inc.h"

namespace quest {

const RoundingKernels kRoundingAvx2 = kRounding;

}  // namespace quest
