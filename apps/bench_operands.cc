// Operands of values that are cheap to draw.
#include "apps/bench_operands.h"

#include <algorithm>

#include "backend/kernel_cases.h"

namespace quest::app {

Tensor add(KernelCase& c, Shape shape, DType dtype) { return c.memory.take(shape, dtype); }

Tensor add_copy(KernelCase& c, Tensor host) {
  const Tensor x = add(c, host.shape, host.dtype);
  c.memory.device().copy(x, host);
  return x;
}

Tensor add_normal(KernelCase& c, Shape shape, DType dtype, std::uint64_t seed) {
  const Tensor x = add(c, shape, dtype);
  const std::int64_t at_a_time = std::min<std::int64_t>(x.rows(), 64);
  const OwnedTensor drawn({at_a_time, x.cols()}, dtype);
  fill_normal(drawn, seed);
  for (std::int64_t r = 0; r < x.rows(); r += at_a_time) {
    const std::int64_t count = std::min(at_a_time, x.rows() - r);
    c.memory.device().copy(x.rows_slice(r, r + count), drawn.view().rows_slice(0, count));
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
  Backend& device = c.memory.device();
  KernelCase scratch{CaseMemory(device)};
  const Tensor x = add_normal(scratch, {rows, columns}, DType::kF32, seed);
  device.quantize_rows(quantized, x, quantizer_of(bits, columns));
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
