// The list of kernels that `quest bench kernels` measures; here those of rows and of attention.
#include "apps/bench_kernels.h"

#include <fmt/format.h>

#include <cmath>

#include "apps/bench_operands.h"
#include "apps/bench_products.h"

namespace quest::app {
namespace {

KernelCase rows_kernel(Backend& device, const RowCase& size) {
  KernelCase c{CaseMemory(device)};
  c.elements = static_cast<double>(size.rows) * static_cast<double>(size.columns);
  return c;
}

KernelCase quantize_rows_case(Backend& device, RowCase size, DType dtype) {
  KernelCase c = rows_kernel(device, size);
  const Tensor x = add_normal(c, {size.rows, size.columns}, dtype, 1);
  const QuantizedRows rows = add_quantized(c, size.rows, size.columns, 4, 2);
  c.bytes = bytes_of({x, rows.mask}) + bytes_of(rows);
  c.run = [=, quantizer = quantizer_of(4, size.columns)](Backend& backend) {
    backend.quantize_rows(rows, x, quantizer);
  };
  return c;
}

KernelCase quantize_rows_backward_case(Backend& device, RowCase size, DType dtype) {
  KernelCase c = rows_kernel(device, size);
  const Tensor d = add_normal(c, {size.rows, size.columns}, dtype, 1);
  const QuantizedRows rows = add_quantized(c, size.rows, size.columns, 4, 2);
  c.bytes = bytes_of({d, d, rows.mask});
  c.run = [=, block = hadamard_block(size.columns)](Backend& backend) {
    backend.quantize_rows_backward(d, d, rows.mask, block, Write::kSet);
  };
  return c;
}

KernelCase rmsnorm_case(Backend& device, RowCase size) {
  KernelCase c = rows_kernel(device, size);
  const Tensor x = add_normal(c, {size.rows, size.columns}, DType::kF32, 1);
  const Tensor weight = add_normal(c, {1, size.columns}, DType::kF32, 2);
  const Tensor y = add(c, {size.rows, size.columns}, DType::kBF16);
  const Tensor rstd = add(c, {size.rows}, DType::kF32);
  c.bytes = bytes_of({x, y});
  c.run = [=](Backend& backend) { backend.rmsnorm(y, rstd, x, weight, 1e-5f); };
  return c;
}

KernelCase rmsnorm_backward_case(Backend& device, RowCase size) {
  KernelCase c = rows_kernel(device, size);
  const Shape shape{size.rows, size.columns};
  const Tensor x = add_normal(c, shape, DType::kF32, 1);
  const Tensor weight = add_normal(c, {1, size.columns}, DType::kF32, 2);
  const Tensor d_y = add_normal(c, shape, DType::kBF16, 3);
  const Tensor d_x = add(c, shape, DType::kF32), d_weight = add(c, {size.columns}, DType::kF32);
  const Tensor rounded = add(c, shape, DType::kBF16);
  const Tensor y = add(c, shape, DType::kBF16), rstd = add(c, {size.rows}, DType::kF32);
  device.rmsnorm(y, rstd, x, weight, 1e-5f);
  c.bytes = bytes_of({x, d_y, d_x, d_x, rounded});
  c.run = [=](Backend& backend) {
    backend.rmsnorm_backward(d_x, rounded, d_weight, d_y, x, weight, rstd);
  };
  return c;
}

KernelCase swiglu_case(Backend& device, RowCase size) {
  KernelCase c = rows_kernel(device, size);
  const Tensor gate_up = add_normal(c, {size.rows, 2 * size.columns}, DType::kBF16, 1);
  const Tensor h = add(c, {size.rows, size.columns}, DType::kBF16);
  c.bytes = bytes_of({gate_up, h});
  c.run = [=](Backend& backend) {
    backend.swiglu(h, gate_up.columns(0, size.columns),
                   gate_up.columns(size.columns, 2 * size.columns));
  };
  return c;
}

KernelCase swiglu_backward_case(Backend& device, RowCase size) {
  KernelCase c = rows_kernel(device, size);
  const Tensor gate_up = add_normal(c, {size.rows, 2 * size.columns}, DType::kBF16, 1);
  const Tensor d_h = add_normal(c, {size.rows, size.columns}, DType::kBF16, 2);
  const Tensor d_gate_up = add(c, {size.rows, 2 * size.columns}, DType::kBF16);
  c.bytes = bytes_of({gate_up, d_h, d_gate_up});
  c.run = [=](Backend& backend) {
    const auto gate = [&](Tensor both) { return both.columns(0, size.columns); };
    const auto up = [&](Tensor both) { return both.columns(size.columns, 2 * size.columns); };
    backend.swiglu_backward(gate(d_gate_up), up(d_gate_up), d_h, gate(gate_up), up(gate_up));
  };
  return c;
}

KernelCase rope_case(Backend& device, RowCase size) {
  constexpr std::int64_t kHeadDim = 64;
  KernelCase c = rows_kernel(device, size);
  const Tensor x = add_normal(c, {size.rows, size.columns}, DType::kBF16, 1);
  const OwnedTensor cosines({size.rows, kHeadDim / 2}, DType::kF32);
  const OwnedTensor sines({size.rows, kHeadDim / 2}, DType::kF32);
  for (std::int64_t i = 0; i < size.rows * kHeadDim / 2; ++i) {
    // Real angles: repeated turns must not grow.
    cosines.view().as<float>()[i] = std::cos(static_cast<float>(i));
    sines.view().as<float>()[i] = std::sin(static_cast<float>(i));
  }
  const Tensor cos = add_copy(c, cosines), sin = add_copy(c, sines);
  c.bytes = bytes_of({x, x, cos, sin});
  c.run = [=](Backend& backend) {
    backend.rope(x, cos, sin, RopeLayout::kInterleaved, 0, size.rows, false);
  };
  return c;
}

KernelCase cross_entropy_case(Backend& device, RowCase size) {
  KernelCase c = rows_kernel(device, size);
  const Tensor logits = add_normal(c, {size.rows, size.columns}, DType::kF32, 1);
  const Tensor d_logits = add(c, {size.rows, size.columns}, DType::kBF16);
  const Tensor losses = add(c, {size.rows}, DType::kF32), correct = add(c, {size.rows}, DType::kU8);
  const Tensor targets = add(c, {size.rows}, DType::kI32);
  c.bytes = bytes_of({logits, d_logits});
  c.run = [=](Backend& backend) {
    backend.cross_entropy(losses, correct, d_logits, logits, targets, 1.0f);
  };
  return c;
}

KernelCase adamw_case(Backend& device, RowCase size) {
  KernelCase c = rows_kernel(device, size);
  const Shape shape{size.rows, size.columns};
  const Tensor parameter = add_normal(c, shape, DType::kF32, 1);
  const Tensor gradient = add_normal(c, shape, DType::kF32, 2);
  const Tensor first = add(c, shape, DType::kF32), second = add(c, shape, DType::kF32);
  const Tensor grad_scale = add(c, {1}, DType::kF32);
  AdamWStep step{1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1};
  const AdamWFactors factors = adamw_factors(step);
  step.on_device = add_copy(c, view_of(&factors.beta1, {kAdamWFactors}));
  c.bytes = bytes_of({parameter, parameter, first, first, second, second, gradient});
  c.run = [=](Backend& backend) {
    backend.adamw(parameter, {first, {}}, {second, {}}, gradient, grad_scale, step);
  };
  return c;
}

KernelCase sum_squares_case(Backend& device, RowCase size) {
  KernelCase c = rows_kernel(device, size);
  const Tensor x = add_normal(c, {size.rows, size.columns}, DType::kF32, 1);
  const Tensor total = add(c, {1}, DType::kF64);
  c.bytes = bytes_of({x});
  c.run = [=](Backend& backend) { backend.sum_squares(total, x); };
  return c;
}

KernelCase copy_case(Backend& device, RowCase size) {
  KernelCase c = rows_kernel(device, size);
  const Tensor src = add_normal(c, {size.rows, size.columns}, DType::kF32, 1);
  const Tensor dst = add(c, {size.rows, size.columns}, DType::kF32);
  c.bytes = bytes_of({src, dst});
  c.run = [=](Backend& backend) { backend.copy(dst, src); };
  return c;
}

// Pairs of a query and a key that the mask lets meet, times the head's two products of D.
double attention_operations(const AttentionShape& s) {
  const auto length = static_cast<double>(s.query_length);
  return 4.0 * static_cast<double>(s.batch * s.heads * s.head_dim) * 0.5 * length * (length + 1);
}

struct AttentionOperands {
  Tensor q, k, v, out, log_sums, d_out, d_qkv;
};

AttentionOperands add_attention(KernelCase& c, const AttentionShape& s) {
  const std::int64_t rows = s.batch * s.key_length, width = s.heads * s.head_dim;
  const std::int64_t key_width = s.kv_heads * s.head_dim;
  const Tensor qkv = add_normal(c, {rows, width + 2 * key_width}, DType::kBF16, 1);
  return {qkv.columns(0, width),
          qkv.columns(width, width + key_width),
          qkv.columns(width + key_width, width + 2 * key_width),
          add(c, {rows, width}, DType::kBF16),
          add(c, {s.batch, s.heads, s.query_length}, DType::kF32),
          add_normal(c, {rows, width}, DType::kBF16, 2),
          add(c, {rows, width + 2 * key_width}, DType::kBF16)};
}

KernelCase attention_case(Backend& device, AttentionShape s) {
  KernelCase c{CaseMemory(device), Unit::kBF16, attention_operations(s)};
  const AttentionOperands t = add_attention(c, s);
  c.bytes = bytes_of({t.q, t.k, t.v, t.out});
  c.run = [=](Backend& backend) { backend.attention(t.out, t.log_sums, t.q, t.k, t.v, s); };
  return c;
}

// Backward has five products where forward has two.
KernelCase attention_backward_case(Backend& device, AttentionShape s) {
  KernelCase c{CaseMemory(device), Unit::kBF16, 2.5 * attention_operations(s)};
  const AttentionOperands t = add_attention(c, s);
  device.attention(t.out, t.log_sums, t.q, t.k, t.v, s);
  c.bytes = bytes_of({t.q, t.k, t.v, t.out, t.d_out, t.d_qkv});
  const std::int64_t width = s.heads * s.head_dim, key_width = s.kv_heads * s.head_dim;
  c.run = [=](Backend& backend) {
    backend.attention_backward(t.d_qkv.columns(0, width), t.d_qkv.columns(width, width + key_width),
                               t.d_qkv.columns(width + key_width, width + 2 * key_width), t.d_out,
                               t.q, t.k, t.v, t.out, t.log_sums, s);
  };
  return c;
}

void add_row_kernels(std::vector<KernelCaseMaker>& cases, const KernelSizes& sizes) {
  for (const RowCase& size : sizes.rows) {
    const std::string text = fmt::format("{} x {}", size.rows, size.columns);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const std::string type = dtype == DType::kBF16 ? "bf16" : "f32";
      add_case(cases, "quantize_rows w4 " + type, text, quantize_rows_case, size, dtype);
      add_case(cases, "quantize_rows_backward " + type, text, quantize_rows_backward_case, size,
               dtype);
    }
    add_case(cases, "rmsnorm", text, rmsnorm_case, size);
    add_case(cases, "rmsnorm_backward", text, rmsnorm_backward_case, size);
    add_case(cases, "swiglu", text, swiglu_case, size);
    add_case(cases, "swiglu_backward", text, swiglu_backward_case, size);
    add_case(cases, "rope", text, rope_case, size);
    add_case(cases, "copy", text, copy_case, size);
  }
  const RowCase& head = sizes.logits;
  add_case(cases, "cross_entropy", fmt::format("{} x {}", head.rows, head.columns),
           cross_entropy_case, head);
  const std::string parameters = std::to_string(sizes.parameters.rows * sizes.parameters.columns);
  add_case(cases, "adamw", parameters, adamw_case, sizes.parameters);
  add_case(cases, "sum_squares", parameters, sum_squares_case, sizes.parameters);
}

void add_attention_kernels(std::vector<KernelCaseMaker>& cases, const KernelSizes& sizes) {
  for (const AttentionShape& s : sizes.attention) {
    const std::string text =
        fmt::format("B {} T {} H {} D {}", s.batch, s.query_length, s.heads, s.head_dim);
    add_case(cases, "attention", text, attention_case, s);
    add_case(cases, "attention_backward", text, attention_backward_case, s);
  }
}

}  // namespace

std::vector<KernelCaseMaker> kernel_cases(const KernelSizes& sizes) {
  std::vector<KernelCaseMaker> cases;
  add_products(cases, sizes);
  add_row_kernels(cases, sizes);
  add_attention_kernels(cases, sizes);
  return cases;
}

}  // namespace quest::app
