// Packed kernels compiled for avx512.
#include <cstddef>

#include "backend/cpu/packed/packed_kernels.h"
#include "backend/cpu/simd/accumulators.h"
#include "backend/cpu/simd/fetch_to_write.h"
#include "backend/cpu/simd/first_lanes.h"
#include "backend/cpu/simd/row_addresses.h"
#include "backend/cpu/simd/simd16_avx512.h"
#include "backend/cpu/simd/transpose_avx512.h"
#include "backend/cpu/simd/vnni_dots_avx512.h"
// The shared text stands on the names of the headers above.
#include "backend/cpu/packed/packed_rows.inc.h"
// Stand on all, each on the one before.
#include "backend/cpu/packed/packed_fields_avx512.inc.h"
#include "backend/cpu/packed/packed_in_order_avx512.inc.h"
#include "backend/cpu/packed/packed_products_avx512.inc.h"
#include "backend/cpu/packed/packed_signs_avx512.inc.h"
// Stand on these.
#include "backend/cpu/packed/packed_bit_pairs_avx512.inc.h"
#include "backend/cpu/packed/packed_table_avx512.inc.h"

namespace quest {

const PackedKernels kPackedKernelsAvx512 = kVnniPacked;

}  // namespace quest
