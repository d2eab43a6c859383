// Quantization kernels compiled for avx512.
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/quantize_rows.inc.h"

namespace quest {

const QuantKernels kQuantKernelsAvx512 = {
    .odd_codes_bf16 = odd_codes_bf16,
};

}  // namespace quest
