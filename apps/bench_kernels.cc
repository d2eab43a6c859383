// The list of kernels that `quest bench kernels` measures; here those of rows and of attention.
#include "apps/bench_kernels.h"

#include <fmt/format.h>

#include <cmath>

#include "apps/bench_operands.h"
#include "apps/bench_products.h"

namespace quest::app {
namespace {

constexpr std::int64_t kVocab = 32000;
constexpr std::int64_t kHeadRows = 512;
constexpr std::int64_t kParameters = 8 << 20;

KernelCase rows_kernel(const RowCase& size) {
  KernelCase c;
  c.elements = static_cast<double>(size.rows) * static_cast<double>(size.columns);
  return c;
}

KernelCase quantize_rows_case(RowCase size, DType dtype) {
  KernelCase c = rows_kernel(size);
  const Tensor x = add_normal(c, {size.rows, size.columns}, dtype, 1);
  const QuantizedRows rows = add_quantized(c, size.rows, size.columns, 4, 2);
  c.bytes = bytes_of({x, rows.mask}) + bytes_of(rows);
  c.run = [=, quantizer = quantizer_of(4, size.columns)](Backend& backend) {
    backend.quantize_rows(rows, x, quantizer);
  };
  return c;
}

KernelCase quantize_rows_backward_case(RowCase size, DType dtype) {
  KernelCase c = rows_kernel(size);
  const Tensor d = add_normal(c, {size.rows, size.columns}, dtype, 1);
  const QuantizedRows rows = add_quantized(c, size.rows, size.columns, 4, 2);
  c.bytes = bytes_of({d, d, rows.mask});
  c.run = [=, block = hadamard_block(size.columns)](Backend& backend) {
    backend.quantize_rows_backward(d, d, rows.mask, block, Write::kSet);
  };
  return c;
}

KernelCase rmsnorm_case(RowCase size) {
  KernelCase c = rows_kernel(size);
  const Tensor x = add_normal(c, {size.rows, size.columns}, DType::kF32, 1);
  const Tensor weight = add_normal(c, {1, size.columns}, DType::kF32, 2);
  const Tensor y = add(c, {size.rows, size.columns}, DType::kBF16);
  const Tensor rstd = add(c, {size.rows}, DType::kF32);
  c.bytes = bytes_of({x, y});
  c.run = [=](Backend& backend) { backend.rmsnorm(y, rstd, x, weight, 1e-5f); };
  return c;
}

KernelCase rmsnorm_backward_case(RowCase size) {
  KernelCase c = rows_kernel(size);
  const Shape shape{size.rows, size.columns};
  const Tensor x = add_normal(c, shape, DType::kF32, 1);
  const Tensor weight = add_normal(c, {1, size.columns}, DType::kF32, 2);
  const Tensor d_y = add_normal(c, shape, DType::kBF16, 3);
  const Tensor d_x = add(c, shape, DType::kF32), d_weight = add(c, {size.columns}, DType::kF32);
  const Tensor rounded = add(c, shape, DType::kBF16);
  const Tensor y = add(c, shape, DType::kBF16), rstd = add(c, {size.rows}, DType::kF32);
  make_cpu_backend(1)->rmsnorm(y, rstd, x, weight, 1e-5f);
  c.bytes = bytes_of({x, d_y, d_x, d_x, rounded});
  c.run = [=](Backend& backend) {
    backend.rmsnorm_backward(d_x, rounded, d_weight, d_y, x, weight, rstd);
  };
  return c;
}

KernelCase swiglu_case(RowCase size) {
  KernelCase c = rows_kernel(size);
  const Tensor gate_up = add_normal(c, {size.rows, 2 * size.columns}, DType::kBF16, 1);
  const Tensor h = add(c, {size.rows, size.columns}, DType::kBF16);
  c.bytes = bytes_of({gate_up, h});
  c.run = [=](Backend& backend) {
    backend.swiglu(h, gate_up.columns(0, size.columns),
                   gate_up.columns(size.columns, 2 * size.columns));
  };
  return c;
}

KernelCase swiglu_backward_case(RowCase size) {
  KernelCase c = rows_kernel(size);
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

KernelCase rope_case(RowCase size) {
  constexpr std::int64_t kHeadDim = 64;
  KernelCase c = rows_kernel(size);
  const Tensor x = add_normal(c, {size.rows, size.columns}, DType::kBF16, 1);
  const Tensor cos = add(c, {size.rows, kHeadDim / 2}, DType::kF32);
  const Tensor sin = add(c, {size.rows, kHeadDim / 2}, DType::kF32);
  for (std::int64_t i = 0; i < cos.numel(); ++i) {  // Real angles: repeated turns must not grow.
    cos.as<float>()[i] = std::cos(static_cast<float>(i));
    sin.as<float>()[i] = std::sin(static_cast<float>(i));
  }
  c.bytes = bytes_of({x, x, cos, sin});
  c.run = [=](Backend& backend) {
    backend.rope(x, cos, sin, RopeLayout::kInterleaved, 0, size.rows, false);
  };
  return c;
}

KernelCase cross_entropy_case() {
  KernelCase c = rows_kernel({kHeadRows, kVocab});
  const Tensor logits = add_normal(c, {kHeadRows, kVocab}, DType::kF32, 1);
  const Tensor d_logits = add(c, {kHeadRows, kVocab}, DType::kBF16);
  const Tensor losses = add(c, {kHeadRows}, DType::kF32), correct = add(c, {kHeadRows}, DType::kU8);
  const Tensor targets = add(c, {kHeadRows}, DType::kI32);
  c.bytes = bytes_of({logits, d_logits});
  c.run = [=](Backend& backend) {
    backend.cross_entropy(losses, correct, d_logits, logits, targets, 1.0f);
  };
  return c;
}

KernelCase adamw_case() {
  KernelCase c = rows_kernel({1, kParameters});
  const Shape shape{kParameters / 1024, 1024};
  const Tensor parameter = add_normal(c, shape, DType::kF32, 1);
  const Tensor gradient = add_normal(c, shape, DType::kF32, 2);
  const Tensor first = add(c, shape, DType::kF32), second = add(c, shape, DType::kF32);
  const Tensor grad_scale = add(c, {1}, DType::kF32);
  c.bytes = bytes_of({parameter, parameter, first, first, second, second, gradient});
  c.run = [=](Backend& backend) {
    backend.adamw(parameter, {first, {}}, {second, {}}, gradient, grad_scale,
                  {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1});
  };
  return c;
}

KernelCase sum_squares_case() {
  KernelCase c = rows_kernel({1, kParameters});
  const Tensor x = add_normal(c, {kParameters / 1024, 1024}, DType::kF32, 1);
  const Tensor total = add(c, {1}, DType::kF64);
  c.bytes = bytes_of({x});
  c.run = [=](Backend& backend) { backend.sum_squares(total, x); };
  return c;
}

KernelCase copy_case(RowCase size) {
  KernelCase c = rows_kernel(size);
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

KernelCase attention_case(AttentionShape s) {
  KernelCase c{Unit::kBF16, attention_operations(s)};
  const AttentionOperands t = add_attention(c, s);
  c.bytes = bytes_of({t.q, t.k, t.v, t.out});
  c.run = [=](Backend& backend) { backend.attention(t.out, t.log_sums, t.q, t.k, t.v, s); };
  return c;
}

// Backward has five products where forward has two.
KernelCase attention_backward_case(AttentionShape s) {
  KernelCase c{Unit::kBF16, 2.5 * attention_operations(s)};
  const AttentionOperands t = add_attention(c, s);
  make_cpu_backend(1)->attention(t.out, t.log_sums, t.q, t.k, t.v, s);
  c.bytes = bytes_of({t.q, t.k, t.v, t.out, t.d_out, t.d_qkv});
  const std::int64_t width = s.heads * s.head_dim, key_width = s.kv_heads * s.head_dim;
  c.run = [=](Backend& backend) {
    backend.attention_backward(t.d_qkv.columns(0, width), t.d_qkv.columns(width, width + key_width),
                               t.d_qkv.columns(width + key_width, width + 2 * key_width), t.d_out,
                               t.q, t.k, t.v, t.out, t.log_sums, s);
  };
  return c;
}

void add_row_kernels(std::vector<KernelCaseMaker>& cases) {
  for (const RowCase& size : kRowSpeedCases) {
    const std::string text = fmt::format("{} x {}", size.rows, size.columns);
    const auto add_case = [&](std::string kernel, std::function<KernelCase()> make) {
      cases.push_back({std::move(kernel), text, std::move(make)});
    };
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const std::string type = dtype == DType::kBF16 ? "bf16" : "f32";
      add_case("quantize_rows w4 " + type, [=] { return quantize_rows_case(size, dtype); });
      add_case("quantize_rows_backward " + type,
               [=] { return quantize_rows_backward_case(size, dtype); });
    }
    add_case("rmsnorm", [=] { return rmsnorm_case(size); });
    add_case("rmsnorm_backward", [=] { return rmsnorm_backward_case(size); });
    add_case("swiglu", [=] { return swiglu_case(size); });
    add_case("swiglu_backward", [=] { return swiglu_backward_case(size); });
    add_case("rope", [=] { return rope_case(size); });
    add_case("copy", [=] { return copy_case(size); });
  }
  cases.push_back({"cross_entropy", fmt::format("{} x {}", kHeadRows, kVocab), cross_entropy_case});
  cases.push_back({"adamw", std::to_string(kParameters), adamw_case});
  cases.push_back({"sum_squares", std::to_string(kParameters), sum_squares_case});
}

void add_attention_kernels(std::vector<KernelCaseMaker>& cases) {
  for (const AttentionShape& s : kAttentionSpeedCases) {
    const std::string text =
        fmt::format("B {} T {} H {} D {}", s.batch, s.query_length, s.heads, s.head_dim);
    cases.push_back({"attention", text, [=] { return attention_case(s); }});
    cases.push_back({"attention_backward", text, [=] { return attention_backward_case(s); }});
  }
}

}  // namespace

std::vector<KernelCaseMaker> kernel_cases() {
  std::vector<KernelCaseMaker> cases;
  add_products(cases);
  add_row_kernels(cases);
  add_attention_kernels(cases);
  return cases;
}

}  // namespace quest::app
