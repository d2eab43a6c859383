// Cases of products: x times w, and both gradients.
#include "apps/bench_products.h"

#include <fmt/format.h>

#include <utility>

#include "apps/bench_operands.h"
#include "quant/packing.h"

namespace quest::app {
namespace {

double product_operations(const ProductCase& size) {
  return 2.0 * static_cast<double>(size.m) * static_cast<double>(size.n) *
         static_cast<double>(size.k);
}

Unit float_unit(DType dtype) { return dtype == DType::kBF16 ? Unit::kBF16 : Unit::kF32; }

/// Matrices of a dense product: two operands and what becomes of them.
struct DenseShapes {
  Shape first, second, out;
};

KernelCase dense_case(Backend& device, ProductCase size, DType dtype, const DenseShapes& shapes,
                      DType out_type, void (Backend::*product)(Tensor, Tensor, Tensor, Write)) {
  KernelCase c{CaseMemory(device), float_unit(dtype), product_operations(size)};
  const Tensor first = add_normal(c, shapes.first, dtype, 1);
  const Tensor second = add_normal(c, shapes.second, dtype, 2);
  const Tensor out = add(c, shapes.out, out_type);
  c.bytes = bytes_of({first, second, out});
  c.run = [=](Backend& backend) { (backend.*product)(out, first, second, Write::kSet); };
  return c;
}

KernelCase matmul_case(Backend& device, ProductCase size, DType dtype) {
  const DenseShapes shapes{{size.m, size.k}, {size.n, size.k}, {size.m, size.n}};
  return dense_case(device, size, dtype, shapes, dtype, &Backend::matmul);
}

KernelCase matmul_grad_input_case(Backend& device, ProductCase size, DType dtype) {
  const DenseShapes shapes{{size.m, size.n}, {size.n, size.k}, {size.m, size.k}};
  return dense_case(device, size, dtype, shapes, dtype, &Backend::matmul_grad_input);
}

KernelCase matmul_grad_weight_case(Backend& device, ProductCase size, DType dtype) {
  const DenseShapes shapes{{size.m, size.n}, {size.m, size.k}, {size.n, size.k}};
  return dense_case(device, size, dtype, shapes, DType::kF32, &Backend::matmul_grad_weight);
}

KernelCase quantized_matmul_case(Backend& device, ProductCase size, int w_bits, int x_bits,
                                 Write write) {
  KernelCase c{CaseMemory(device), Unit::kInt8, product_operations(size)};
  c.bit_pairs = w_bits * x_bits;
  const QuantizedRows x = add_quantized(c, size.m, size.k, x_bits, 1);
  const QuantizedRows w = add_quantized(c, size.n, size.k, w_bits, 2);
  const Tensor y = add(c, {size.m, size.n}, write == Write::kAdd ? DType::kF32 : DType::kBF16);
  c.bytes = bytes_of(x) + bytes_of(w) + bytes_of({y}) * (write == Write::kAdd ? 2 : 1);
  c.run = [=](Backend& backend) { backend.quantized_matmul(y, x, w, write); };
  return c;
}

KernelCase quantized_grad_input_case(Backend& device, ProductCase size) {
  KernelCase c{CaseMemory(device), Unit::kBF16, product_operations(size)};
  const Tensor d_y = add_normal(c, {size.m, size.n}, DType::kBF16, 1);
  const QuantizedRows w = add_quantized(c, size.n, size.k, 4, 2);
  const Tensor d_z = add(c, {size.m, size.k}, DType::kBF16);
  c.bytes = bytes_of({d_y, d_z}) + bytes_of(w);
  c.run = [=](Backend& backend) { backend.quantized_matmul_grad_input(d_z, d_y, w, Write::kSet); };
  return c;
}

KernelCase quantized_grad_weight_case(Backend& device, ProductCase size) {
  KernelCase c{CaseMemory(device), Unit::kBF16, product_operations(size)};
  const Tensor d_y = add_normal(c, {size.m, size.n}, DType::kBF16, 1);
  const QuantizedRows x = add_quantized(c, size.m, size.k, 4, 2);
  const Tensor d_z = add(c, {size.n, size.k}, DType::kF32);
  c.bytes = bytes_of({d_y, d_z}) + bytes_of(x);
  c.run = [=](Backend& backend) { backend.quantized_matmul_grad_weight(d_z, d_y, x, Write::kSet); };
  return c;
}

// Codes of normal values, packed on the host.
PackedRows add_packed(KernelCase& c, std::int64_t rows, std::int64_t columns, int bits,
                      std::uint64_t seed) {
  const std::unique_ptr<Backend> host = make_cpu_backend(1);
  KernelCase scratch{CaseMemory(*host)};
  const QuantizedRows plain = add_quantized(scratch, rows, columns, bits, seed);
  const OwnedTensor codes({rows, packed_row_bytes(columns, bits)}, DType::kU8);
  for (std::int64_t r = 0; r < rows; ++r) {
    pack_codes(codes.view().row<std::uint8_t>(r), plain.codes.row<std::int8_t>(r), columns, bits);
  }
  return {add_copy(c, codes), add_copy(c, plain.steps), add_copy(c, plain.code_sums), bits,
          columns};
}

KernelCase packed_matmul_case(Backend& device, ProductCase size, int bits) {
  KernelCase c{CaseMemory(device), Unit::kInt8, product_operations(size)};
  c.bit_pairs = bits * bits;
  const QuantizedRows x = add_quantized(c, size.m, size.k, bits, 1);
  const PackedRows w = add_packed(c, size.n, size.k, bits, 2);
  const Tensor y = add(c, {size.m, size.n}, DType::kF32);
  c.bytes = bytes_of(x) + bytes_of({w.codes, w.steps, w.code_sums, y});
  c.run = [=](Backend& backend) { backend.packed_matmul(y, x, bits, w, Write::kSet); };
  return c;
}

std::string text_of(const ProductCase& size) {
  return fmt::format("{} x {} x {}", size.m, size.n, size.k);
}

void add_dense(std::vector<KernelCaseMaker>& cases, const ProductCase& size) {
  const std::string text = text_of(size);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::string type = dtype == DType::kBF16 ? "bf16" : "f32";
    add_case(cases, "matmul " + type, text, matmul_case, size, dtype);
    add_case(cases, "matmul_grad_input " + type, text, matmul_grad_input_case, size, dtype);
    add_case(cases, "matmul_grad_weight " + type, text, matmul_grad_weight_case, size, dtype);
  }
}

void add_quantized_products(std::vector<KernelCaseMaker>& cases, const ProductCase& size) {
  const std::string text = text_of(size);
  for (const auto& [w, x] : {std::pair{4, 4}, {1, 1}, {2, 1}, {2, 2}, {1, 2}, {1, 4}}) {
    add_case(cases, fmt::format("quantized_matmul w{}a{}", w, x), text, quantized_matmul_case, size,
             w, x, Write::kSet);
  }
  add_case(cases, "quantized_matmul w4a4 +=", text, quantized_matmul_case, size, 4, 4, Write::kAdd);
  add_case(cases, "quantized_matmul_grad_input", text, quantized_grad_input_case, size);
  add_case(cases, "quantized_matmul_grad_weight", text, quantized_grad_weight_case, size);
}

void add_packed_products(std::vector<KernelCaseMaker>& cases, const ProductCase& size) {
  for (const int bits : {1, 2, 4, 8}) {
    add_case(cases, fmt::format("packed_matmul w{0}a{0}", bits), text_of(size), packed_matmul_case,
             size, bits);
  }
}

}  // namespace

void add_products(std::vector<KernelCaseMaker>& cases, const KernelSizes& sizes) {
  for (const ProductCase& size : sizes.products) {
    add_dense(cases, size);
    add_quantized_products(cases, size);
    add_packed_products(cases, size);
  }
  for (const ProductCase& size : sizes.decoding) add_packed_products(cases, size);
}

}  // namespace quest::app
