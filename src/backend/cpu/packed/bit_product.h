// Products of rows of few bits by xor and counting, a plane of bits at a time.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/product_output.h"
#include "backend/cpu/workspace.h"

namespace quest {

/// Rows of w, of one or two bits: their codes, packed or one a byte.
struct BitWeights {
  Tensor codes;  ///< u8 [N, ceil(K * bits / 8)], or i8 [N, K]
  Tensor steps;  ///< f32 [N]
  int bits;

  bool packed() const { return codes.dtype == DType::kU8; }
};
inline BitWeights weights_of(const PackedRows& w) { return {w.codes, w.steps, w.bits}; }
inline BitWeights weights_of(const QuantizedRows& w) { return {w.codes, w.steps, w.bits}; }

/// Whether multiply_bits is there and faster than a product of bytes for `rows` rows of `columns`
/// values of x.
bool bits_pay(Isa isa, int x_bits, int w_bits, std::int64_t rows, std::int64_t columns,
              bool packed);

/// Bytes of scratch memory that multiply_bits asks for, by slot.
struct BitProductScratch {
  std::int64_t inputs;  ///< kPackedInputs
  std::int64_t panels;  ///< kPackedSums
};
/// Of `rows` rows of x, where they are many (16 and more for each thread and plane of x).
BitProductScratch bit_product_scratch(std::int64_t rows, std::int64_t outputs, std::int64_t columns,
                                      int x_bits, int w_bits, int threads);

struct BitProductContext {
  Isa isa;
  Workspace& workspace;
  int threads;
};

/// out.y (= or +=) x w^T as CpuBackend::quantized_matmul computes it, where bits_pay says so.
void multiply_bits(const BitProductContext& context, const ProductOutput& out,
                   const QuantizedRows& x, int x_bits, const BitWeights& w);

}  // namespace quest
