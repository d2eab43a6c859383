// Quantization kernels compiled for generic.
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/rounding_kernels.h"
#include "backend/cpu/simd16_generic.h"
// The shared text stands on the names of the header above.
#include "backend/cpu/rotate_rows.inc.h"
// Stand on both.
#include "backend/cpu/dequantize_rows.inc.h"
#include "backend/cpu/quantize_rows.inc.h"
// Stands on both.
#include "backend/cpu/product_tile.inc.h"
// Stands on all three.
#include "backend/cpu/product_words.inc.h"

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
