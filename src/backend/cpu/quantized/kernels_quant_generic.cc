// Quantization kernels compiled for generic.
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/rounding/rounding_kernels.h"
#include "backend/cpu/simd/simd16_generic.h"
// The shared text stands on the names of the header above.
#include "backend/cpu/quantized/rotate_rows.inc.h"
// Stand on both.
#include "backend/cpu/quantized/dequantize_rows.inc.h"
#include "backend/cpu/quantized/quantize_rows.inc.h"
// Stands on both.
#include "backend/cpu/quantized/product_tile.inc.h"
// Stands on all three.
#include "backend/cpu/quantized/product_words.inc.h"

namespace quest {

const QuantKernels kQuantKernelsGeneric = {
    .product = kWordsProduct,
    .rounding = &kRoundingGeneric,
    .bf16_tiles = nullptr,
    .byte_tiles = nullptr,
    .rows = kRowKernels,
    .rotate_row = rotate_row,
    .dequantize_row = dequantize_row,
};

}  // namespace quest
