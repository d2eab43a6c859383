// Operands of the kernels that `quest bench kernels` measures.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "apps/bench_kernels.h"
#include "quant/row_quantizer.h"

namespace quest::app {

/// Zeros, in the memory of `c`.
Tensor add(KernelCase& c, Shape shape, DType dtype);
/// The values of `host`, which lies there, in the memory of `c`.
Tensor add_copy(KernelCase& c, Tensor host);

/// Normal values; cheap ones, since operands of millions of values are made for each case: at most
/// 64 rows are drawn, and repeated.
Tensor add_normal(KernelCase& c, Shape shape, DType dtype, std::uint64_t seed);

/// How rows of `columns` values become codes: rotated, on 2^bits levels.
RowQuantizer quantizer_of(int bits, std::int64_t columns);

/// Codes of normal values.
QuantizedRows add_quantized(KernelCase& c, std::int64_t rows, std::int64_t columns, int bits,
                            std::uint64_t seed);

double bytes_of(std::initializer_list<Tensor> tensors);
/// What a product reads of them: the mask is not.
double bytes_of(const QuantizedRows& rows);

}  // namespace quest::app
