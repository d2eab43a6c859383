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

KernelCase dense_case(ProductCase size, DType dtype, const DenseShapes& shapes, DType out_type,
                      void (Backend::*product)(Tensor, Tensor, Tensor, Write)) {
  KernelCase c{float_unit(dtype), product_operations(size)};
  const Tensor first = add_normal(c, shapes.first, dtype, 1);
  const Tensor second = add_normal(c, shapes.second, dtype, 2);
  const Tensor out = add(c, shapes.out, out_type);
  c.bytes = bytes_of({first, second, out});
  c.run = [=](Backend& backend) { (backend.*product)(out, first, second, Write::kSet); };
  return c;
}

KernelCase matmul_case(ProductCase size, DType dtype) {
  const DenseShapes shapes{{size.m, size.k}, {size.n, size.k}, {size.m, size.n}};
  return dense_case(size, dtype, shapes, dtype, &Backend::matmul);
}

KernelCase matmul_grad_input_case(ProductCase size, DType dtype) {
  const DenseShapes shapes{{size.m, size.n}, {size.n, size.k}, {size.m, size.k}};
  return dense_case(size, dtype, shapes, dtype, &Backend::matmul_grad_input);
}

KernelCase matmul_grad_weight_case(ProductCase size, DType dtype) {
  const DenseShapes shapes{{size.m, size.n}, {size.m, size.k}, {size.n, size.k}};
  return dense_case(size, dtype, shapes, DType::kF32, &Backend::matmul_grad_weight);
}

KernelCase quantized_matmul_case(ProductCase size, int w_bits, int x_bits, Write write) {
  KernelCase c{Unit::kInt8, product_operations(size)};
  c.bit_pairs = w_bits * x_bits;
  const QuantizedRows x = add_quantized(c, size.m, size.k, x_bits, 1);
  const QuantizedRows w = add_quantized(c, size.n, size.k, w_bits, 2);
  const Tensor y = add(c, {size.m, size.n}, write == Write::kAdd ? DType::kF32 : DType::kBF16);
  c.bytes = bytes_of(x) + bytes_of(w) + bytes_of({y}) * (write == Write::kAdd ? 2 : 1);
  c.run = [=](Backend& backend) { backend.quantized_matmul(y, x, w, write); };
  return c;
}

KernelCase quantized_grad_input_case(ProductCase size) {
  KernelCase c{Unit::kBF16, product_operations(size)};
  const Tensor d_y = add_normal(c, {size.m, size.n}, DType::kBF16, 1);
  const QuantizedRows w = add_quantized(c, size.n, size.k, 4, 2);
  const Tensor d_z = add(c, {size.m, size.k}, DType::kBF16);
  c.bytes = bytes_of({d_y, d_z}) + bytes_of(w);
  c.run = [=](Backend& backend) { backend.quantized_matmul_grad_input(d_z, d_y, w, Write::kSet); };
  return c;
}

KernelCase quantized_grad_weight_case(ProductCase size) {
  KernelCase c{Unit::kBF16, product_operations(size)};
  const Tensor d_y = add_normal(c, {size.m, size.n}, DType::kBF16, 1);
  const QuantizedRows x = add_quantized(c, size.m, size.k, 4, 2);
  const Tensor d_z = add(c, {size.n, size.k}, DType::kF32);
  c.bytes = bytes_of({d_y, d_z}) + bytes_of(x);
  c.run = [=](Backend& backend) { backend.quantized_matmul_grad_weight(d_z, d_y, x, Write::kSet); };
  return c;
}

KernelCase packed_matmul_case(ProductCase size, int bits) {
  KernelCase c{Unit::kInt8, product_operations(size)};
  c.bit_pairs = bits * bits;
  const QuantizedRows x = add_quantized(c, size.m, size.k, bits, 1);
  KernelCase scratch;
  const QuantizedRows plain = add_quantized(scratch, size.n, size.k, bits, 2);
  const PackedRows w{add(c, {size.n, packed_row_bytes(size.k, bits)}, DType::kU8),
                     add(c, {size.n}, DType::kF32), add(c, {size.n}, DType::kI32), bits, size.k};
  for (std::int64_t n = 0; n < size.n; ++n) {
    pack_codes(w.codes.row<std::uint8_t>(n), plain.codes.row<std::int8_t>(n), size.k, bits);
    w.steps.as<float>()[n] = plain.steps.as<float>()[n];
    w.code_sums.as<std::int32_t>()[n] = plain.code_sums.as<std::int32_t>()[n];
  }
  const Tensor y = add(c, {size.m, size.n}, DType::kF32);
  c.bytes = bytes_of(x) + bytes_of({w.codes, w.steps, w.code_sums, y});
  c.run = [=](Backend& backend) { backend.packed_matmul(y, x, bits, w, Write::kSet); };
  return c;
}

std::string size_of(const ProductCase& size) {
  return fmt::format("{} x {} x {}", size.m, size.n, size.k);
}

}  // namespace

void add_products(std::vector<KernelCaseMaker>& cases) {
  for (const ProductCase& size : kProductSpeedCases) {
    const std::string text = size_of(size);
    const auto add_case = [&](std::string kernel, std::function<KernelCase()> make) {
      cases.push_back({std::move(kernel), text, std::move(make)});
    };
    if (size.m >= 128) {  // Fewer rows are those of decoding.
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        const std::string type = dtype == DType::kBF16 ? "bf16" : "f32";
        add_case("matmul " + type, [=] { return matmul_case(size, dtype); });
        add_case("matmul_grad_input " + type, [=] { return matmul_grad_input_case(size, dtype); });
        add_case("matmul_grad_weight " + type,
                 [=] { return matmul_grad_weight_case(size, dtype); });
      }
      for (const auto& [w_bits, x_bits] :
           {std::pair{4, 4}, {1, 1}, {2, 1}, {2, 2}, {1, 2}, {1, 4}}) {
        add_case(
            fmt::format("quantized_matmul w{}a{}", w_bits, x_bits),
            [=, w = w_bits, x = x_bits] { return quantized_matmul_case(size, w, x, Write::kSet); });
      }
      add_case("quantized_matmul w4a4 +=",
               [=] { return quantized_matmul_case(size, 4, 4, Write::kAdd); });
      add_case("quantized_matmul_grad_input", [=] { return quantized_grad_input_case(size); });
      add_case("quantized_matmul_grad_weight", [=] { return quantized_grad_weight_case(size); });
    }
    for (const int bits : {1, 2, 4, 8}) {
      add_case(fmt::format("packed_matmul w{0}a{0}", bits),
               [=] { return packed_matmul_case(size, bits); });
    }
  }
}

}  // namespace quest::app
