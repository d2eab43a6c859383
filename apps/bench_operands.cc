// Operands made on the CPU, of values that are cheap to draw.
#include "apps/bench_operands.h"

#include <algorithm>
#include <cstring>

namespace quest::app {

Tensor add(KernelCase& c, Shape shape, DType dtype) { return c.memory.take(shape, dtype); }

Tensor add_normal(KernelCase& c, Shape shape, DType dtype, std::uint64_t seed) {
  const Tensor x = add(c, shape, dtype);
  const std::int64_t drawn = std::min<std::int64_t>(x.rows(), 64);
  fill_normal(x.rows_slice(0, drawn), seed);
  const std::size_t row_bytes = x.bytes() / static_cast<std::size_t>(x.rows());
  for (std::int64_t r = drawn; r < x.rows(); ++r) {
    std::memcpy(x.rows_slice(r, r + 1).data, x.rows_slice(r % drawn, r % drawn + 1).data,
                row_bytes);
  }
  return x;
}

RowQuantizer quantizer_of(int bits, std::int64_t columns) {
  return RowQuantizer::make(SideScheme{bits}, Transform::kHadamard, columns);
}

QuantizedRows add_quantized(KernelCase& c, std::int64_t rows, std::int64_t columns, int bits,
                            std::uint64_t seed) {
  QuantizedRows quantized{add(c, {rows, columns}, DType::kI8), add(c, {rows}, DType::kF32),
                          add(c, {rows}, DType::kI32),
                          add(c, {rows, (columns + 7) / 8}, DType::kU8)};
  quantized.bits = bits;
  KernelCase scratch;
  const Tensor x = add_normal(scratch, {rows, columns}, DType::kF32, seed);
  make_cpu_backend(1)->quantize_rows(quantized, x, quantizer_of(bits, columns));
  return quantized;
}

double bytes_of(std::initializer_list<Tensor> tensors) {
  double total = 0;
  for (const Tensor& tensor : tensors) total += static_cast<double>(tensor.bytes());
  return total;
}

double bytes_of(const QuantizedRows& rows) {
  return bytes_of({rows.codes, rows.steps, rows.code_sums});
}

}  // namespace quest::app
