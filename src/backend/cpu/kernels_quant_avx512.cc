// Quantization kernels compiled for avx512.
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/simd16_avx512.h"
// The shared text stands on the names of the header above.
#include "backend/cpu/quantize_rows.inc.h"

namespace quest {

const QuantKernels kQuantKernelsAvx512 = {
    .quantize_row = quantize_row,
    .rotate_row = rotate_row,
    .dequantize_row = dequantize_row,
    .odd_codes_bf16 = odd_codes_bf16,
};

}  // namespace quest
