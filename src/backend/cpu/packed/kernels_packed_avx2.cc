// Packed kernels compiled for avx2.
#include <cstddef>

#include "backend/cpu/packed/packed_kernels.h"
#include "backend/cpu/simd/simd16_avx2.h"
// The shared text stands on the names of the headers above.
#include "backend/cpu/packed/packed_rows.inc.h"
// Stands on all.
#include "backend/cpu/packed/packed_words.inc.h"

namespace quest {

const PackedKernels kPackedKernelsAvx2 = kWordsPacked;

}  // namespace quest
