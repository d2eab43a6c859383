// Dense products through oneDNN 2.6: the only file that knows its interface.
#include "backend/cpu/dense/onednn_products.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <dnnl.hpp>

#include "backend/cpu/rows/float_rows.h"

namespace quest {
namespace {

using dnnl::memory;

// Of the code kept for shapes; a server with prompts of all lengths would otherwise keep it all.
constexpr std::size_t kMaxPrepared = 1024;
// Rows and columns of a block whose operands are widened to f32 in scratch.
constexpr std::int64_t kBlock = 512;

memory::data_type type_of(DType dtype) {
  assert(dtype == DType::kF32 || dtype == DType::kBF16);
  return dtype == DType::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
}

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// oneDNN takes the number of threads from OpenMP when a product is made and when it runs.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

class DnnlProduct : public PreparedProduct {
 public:
  DnnlProduct(const ProductShape& s, int threads) : threads_(threads) {
    const ThreadCount scope(threads_);
    const auto describe = [&](std::int64_t rows, std::int64_t cols, DType type, std::int64_t batch,
                              std::int64_t row, std::int64_t column) {
      if (s.batch == 1) return memory::desc({rows, cols}, type_of(type), {row, column});
      return memory::desc({s.batch, rows, cols}, type_of(type), {batch, row, column});
    };
    const memory::desc a = describe(s.m, s.k, s.operand_type, s.a_batch, s.a_row, s.a_column);
    const memory::desc b = describe(s.k, s.n, s.operand_type, s.b_batch, s.b_row, s.b_column);
    const memory::desc out = describe(s.m, s.n, s.out_type, s.out_batch, s.out_row, 1);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (s.write == Write::kAdd) {
      dnnl::post_ops add;
      add.append_sum(1.0f);
      attributes.set_post_ops(add);
    }
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, out), attributes,
                                                   cpu_engine());
    descriptions_ = {a, b, out, description.scratchpad_desc()};
    primitive_ = dnnl::matmul(description);
  }

  std::size_t scratch_bytes() const override { return descriptions_[3].get_size(); }

  void run(void* out, const void* a, const void* b, std::byte* scratch) const override {
    const ThreadCount scope(threads_);
    const dnnl::engine& engine = cpu_engine();
    dnnl::stream stream(engine);
    primitive_.execute(stream,
                       {{DNNL_ARG_SRC, memory(descriptions_[0], engine, const_cast<void*>(a))},
                        {DNNL_ARG_WEIGHTS, memory(descriptions_[1], engine, const_cast<void*>(b))},
                        {DNNL_ARG_DST, memory(descriptions_[2], engine, out)},
                        {DNNL_ARG_SCRATCHPAD, memory(descriptions_[3], engine, scratch)}});
  }

 private:
  int threads_;
  std::array<memory::desc, 4> descriptions_;
  dnnl::matmul primitive_;
};

// A stride that oneDNN accepts where the axis has one element or none is stepped over.
std::int64_t stride_or(std::int64_t stride, std::int64_t least) { return std::max(stride, least); }

ProductShape shape_of(Tensor out, Operand a, Operand b, Write write) {
  ProductShape shape{.m = out.rows(), .n = out.cols(), .k = a.cols()};
  shape.operand_type = a.tensor.dtype;
  shape.out_type = out.dtype;
  const std::int64_t a_stride = stride_or(a.tensor.row_stride, a.tensor.cols());
  const std::int64_t b_stride = stride_or(b.tensor.row_stride, b.tensor.cols());
  shape.a_row = a.transposed ? 1 : a_stride;
  shape.a_column = a.transposed ? a_stride : 1;
  shape.b_row = b.transposed ? 1 : b_stride;
  shape.b_column = b.transposed ? b_stride : 1;
  shape.out_row = stride_or(out.row_stride, out.cols());
  shape.write = write;
  return shape;
}

// Rows [begin, end) of the operand as a matrix; `rows` of its transpose are columns of the tensor.
Operand rows_of(Operand x, std::int64_t begin, std::int64_t end) {
  if (x.transposed) return {x.tensor.columns(begin, end), true};
  return {x.tensor.rows_slice(begin, end), false};
}

Operand transpose(Operand x) { return {x.tensor, !x.transposed}; }

}  // namespace

void hold_onednn_to(Isa isa) {
  if (isa == Isa::kGeneric) dnnl_set_max_cpu_isa(dnnl_cpu_isa_sse41);
  if (isa == Isa::kAvx2) dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
  if (isa == Isa::kAvx512) dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core_bf16);
}

OnednnProducts::OnednnProducts(int threads, Isa isa)
    : threads_(threads), kernels_(float_kernels(isa)), bf16_products_(isa >= Isa::kAvx512) {
  if (!bf16_products_) return;
  // oneDNN wants more of the CPU for bf16 than our own kernels do, so it is asked.
  ProductShape probe{.m = 16, .n = 16, .k = 16, .operand_type = DType::kBF16};
  probe.a_row = probe.b_row = probe.out_row = 16;
  probe.a_column = probe.b_column = 1;
  try {
    prepare(probe);
  } catch (const dnnl::error&) {
    bf16_products_ = false;
  }
}

OnednnProducts::~OnednnProducts() = default;

std::shared_ptr<const PreparedProduct> OnednnProducts::prepare(const ProductShape& shape) {
  return find(shape, 1);
}

std::shared_ptr<const PreparedProduct> OnednnProducts::find(const ProductShape& shape,
                                                            int threads) {
  const Key key{shape, threads};
  if (const auto found = prepared_.find(key); found != prepared_.end()) return found->second;
  if (prepared_.size() >= kMaxPrepared) prepared_.clear();
  return prepared_[key] = std::make_shared<DnnlProduct>(shape, threads);
}

void OnednnProducts::multiply(Tensor out, Operand a, Operand b, Write write, Workspace& workspace) {
  assert(a.tensor.dtype == b.tensor.dtype && a.cols() == b.rows());
  assert(out.rows() == a.rows() && out.cols() == b.cols());
  if (out.numel() == 0) return;
  const bool wide_operands = a.tensor.dtype == DType::kF32;
  if (wide_operands ? out.dtype == DType::kF32 : bf16_products_) {
    multiply_directly(out, a, b, write, workspace);
  } else {
    multiply_in_blocks(out, a, b, write, workspace);
  }
}

void OnednnProducts::multiply_directly(Tensor out, Operand a, Operand b, Write write,
                                       Workspace& workspace) {
  ++runs_;
  const auto product = find(shape_of(out, a, b, write), threads_);
  product->run(out.data, a.tensor.data, b.tensor.data,
               workspace.bytes(Workspace::Slot::kScratchpad, product->scratch_bytes()));
}

void OnednnProducts::multiply_in_blocks(Tensor out, Operand a, Operand b, Write write,
                                        Workspace& workspace) {
  using Slot = Workspace::Slot;
  const auto widened = [&](Operand x, Slot slot) -> Operand {
    if (x.tensor.dtype == DType::kF32) return x;
    const Tensor wide = workspace.tensor(slot, {x.tensor.rows(), x.tensor.cols()}, DType::kF32);
    cast_rows(kernels_, wide, x.tensor, threads_);
    return {wide, x.transposed};
  };
  for (std::int64_t i = 0; i < out.rows(); i += kBlock) {
    const std::int64_t i_end = std::min(i + kBlock, out.rows());
    const Operand wide_a = widened(rows_of(a, i, i_end), Slot::kWideA);
    for (std::int64_t j = 0; j < out.cols(); j += kBlock) {
      const std::int64_t j_end = std::min(j + kBlock, out.cols());
      const Operand wide_b = transpose(widened(rows_of(transpose(b), j, j_end), Slot::kWideB));
      const Tensor target = out.rows_slice(i, i_end).columns(j, j_end);
      if (out.dtype == DType::kF32) {
        multiply_directly(target, wide_a, wide_b, write, workspace);
        continue;
      }
      // A bf16 output is rounded once, after the addition.
      const Tensor wide = workspace.tensor(Slot::kWideOut, target.shape, DType::kF32);
      if (write == Write::kAdd) cast_rows(kernels_, wide, target, threads_);
      multiply_directly(wide, wide_a, wide_b, write, workspace);
      cast_rows(kernels_, target, wide, threads_);
    }
  }
}

}  // namespace quest
