// Packed kernels compiled for generic.
#include <cstddef>

#include "backend/cpu/packed/packed_kernels.h"
#include "backend/cpu/simd/simd16_generic.h"
// The shared text stands on the names of the headers above.
#include "backend/cpu/packed/packed_rows.inc.h"
// Stands on all.
#include "backend/cpu/packed/packed_words.inc.h"

namespace quest {

const PackedKernels kPackedKernelsGeneric = kWordsPacked;

}  // namespace quest
