// Quantization kernels compiled for generic.
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/quantize_rows.inc.h"

namespace quest {

const QuantKernels kQuantKernelsGeneric = {
    .odd_codes_bf16 = odd_codes_bf16,
};

}  // namespace quest
