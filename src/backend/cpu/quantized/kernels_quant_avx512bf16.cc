// Quantization kernels compiled for avx512 and AVX512_BF16, whose conversion to bf16 they use.
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/rounding/rounding_kernels.h"
#include "backend/cpu/simd/fetch_to_write.h"
#include "backend/cpu/simd/row_addresses.h"
#include "backend/cpu/simd/simd16_avx512.h"
#include "backend/cpu/simd/transpose_avx512.h"
#include "backend/cpu/simd/vnni_dots_avx512.h"
#include "backend/cpu/tiles/tile_kernels.h"
// The shared text stands on the names of the header above.
#include "backend/cpu/quantized/rotate_rows.inc.h"
// Stand on both.
#include "backend/cpu/quantized/dequantize_rows.inc.h"
#include "backend/cpu/quantized/quantize_rows.inc.h"
// Stands on all of them.
#include "backend/cpu/quantized/interleaved_rows_avx512.inc.h"
// Stands on both.
#include "backend/cpu/quantized/product_tile.inc.h"
// Stands on all three.
#include "backend/cpu/quantized/product_vnni.inc.h"

namespace quest {

const QuantKernels kQuantKernelsAvx512Bf16 = {
    .product = kVnniProduct,
    .rounding = &kRoundingAvx512,
    .bf16_tiles = &kBf16TilesAvx512,
    .byte_tiles = nullptr,
    .rows = kInterleavedRowKernels,
    .rotate_row = rotate_row_interleaved,
    .dequantize_row = dequantize_row,
};

}  // namespace quest
