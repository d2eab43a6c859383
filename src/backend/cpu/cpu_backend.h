// CpuBackend: host kernels on several threads, in the best instruction set that the CPU has.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/attention/attention_kernels.h"
#include "backend/cpu/dense/onednn_products.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/product_output.h"
#include "backend/cpu/rows/float_kernels.h"
#include "backend/cpu/workspace.h"

namespace quest {

class CpuBackend : public Backend {
 public:
  /// `threads` 0: all that the process may use.
  explicit CpuBackend(int threads, Isa isa = choose_isa());

  std::string name() const override;
  std::unique_ptr<Recording> make_recording() override;
  Place place() const override { return Place::kHost; }
  int threads() const override { return threads_; }
  Isa isa() const { return isa_; }
  /// Scratch memory that the kernels hold now; grows with the largest shapes that they have seen.
  std::size_t workspace_bytes() const { return workspace_.total_bytes(); }

  void quantize_rows(const QuantizedRows& rows, Tensor x, const RowQuantizer& quantizer) override;
  void quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                              Write write) override;
  void dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) override;
  void quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                          const RowQuantizer& quantizer) override;

  void quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                        Write write) override;
  void quantized_matmul_rope(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                             const Rotary& rotary) override;
  void quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                   Write write) override;
  void quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                    Write write) override;
  void integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                 const RoundingKey& key, Write write) override;
  void integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                  const RoundingKey& key, Write write) override;

  void* allocate(std::size_t bytes) override;
  void deallocate(void* data, std::size_t bytes) noexcept override;
  void synchronize() override {}
  void copy(Tensor dst, Tensor src) override;
  void zero(Tensor dst) override;
  void cast(Tensor dst, Tensor src) override;

  void matmul(Tensor y, Tensor x, Tensor w, Write write) override;
  void matmul_rope(Tensor y, Tensor x, Tensor w, const Rotary& rotary) override;
  void matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) override;
  void matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) override;

  void packed_matmul(Tensor y, const QuantizedRows& x, int x_bits, const PackedRows& w,
                     Write write) override;
  void packed_dense_matmul(Tensor y, Tensor x, const PackedRows& w, std::int64_t block,
                           Write write) override;
  void stored_matmul(Tensor y, Tensor x, Tensor w, Write write) override;
  void packed_embedding(Tensor x, Tensor tokens, const PackedRows& table,
                        std::int64_t block) override;

  void embedding(Tensor x, Tensor tokens, Tensor table) override;
  void embedding_backward(Tensor d_table, Tensor d_x, Tensor tokens) override;
  void rmsnorm(Tensor y, Tensor rstd, Tensor x, Tensor weight, float epsilon) override;
  void rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x, Tensor weight,
                        float epsilon, const RowQuantizer& quantizer) override;
  void rmsnorm_backward(Tensor d_x, Tensor rounded, Tensor d_weight, Tensor d_y, Tensor x,
                        Tensor weight, Tensor rstd) override;
  void rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout, std::int64_t first_position,
            std::int64_t length, bool inverse) override;
  void attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                 const AttentionShape& shape) override;
  void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k,
                          Tensor v, Tensor out, Tensor log_sums,
                          const AttentionShape& shape) override;
  void cache_append(const CacheRows& cache, Tensor x, const SequenceSpans& spans) override;
  void cached_attention(Tensor out, Tensor q, const CacheRows& k, const CacheRows& v,
                        const SequenceSpans& spans, const HeadShape& shape) override;
  void swiglu(Tensor h, Tensor gate, Tensor up) override;
  void swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                       const RowQuantizer& quantizer) override;
  void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate, Tensor up) override;
  void cross_entropy(Tensor losses, Tensor correct, Tensor d_logits, Tensor logits, Tensor targets,
                     float scale) override;

  void sum(Tensor total, Tensor x) override;
  void sum_squares(Tensor total, Tensor x) override;
  void clip_scale(Tensor scale, Tensor sums, float max_norm) override;
  void adamw(Tensor parameter, const Moment& first, const Moment& second, Tensor gradient,
             Tensor grad_scale, const AdamWStep& step) override;

 private:
  /// quantize_rows of the rows that source(row, thread) returns, a FloatRow each.
  template <typename RowSource>
  void quantize_each_row(const QuantizedRows& rows, const RowQuantizer& quantizer,
                         const RowSource& source);
  void attention_in_bf16(const AttentionKernels& kernels, Tensor out, Tensor log_sums, Tensor q,
                         Tensor k, Tensor v, const AttentionShape& shape);
  struct AttentionGradients {
    Tensor q, k, v;
  };
  void attention_backward_in_bf16(const AttentionBackwardKernel& kernel,
                                  const AttentionGradients& d, Tensor d_out, Tensor q, Tensor k,
                                  Tensor v, Tensor out, Tensor log_sums,
                                  const AttentionShape& shape);
  /// With fewer query rows a sequence than this, a matrix product of scores would not pay: each
  /// query walks its keys (attention_of_few).
  static constexpr std::int64_t kFewQueries = 8;

  /// matmul and quantized_matmul, with and without the rotary embedding.
  void multiply_rows(const ProductOutput& out, Tensor x, Tensor w);
  void multiply_rows(const ProductOutput& out, const QuantizedRows& x, const QuantizedRows& w);
  /// y [M, N] (= or +=) x [M, K] w [N, K]^T, x and w of any float types.
  void multiply_by_dots(Tensor y, Tensor x, Tensor w, Write write);
  void packed_dense_matmul_of_few(Tensor y, Tensor x, const PackedRows& w, std::int64_t block,
                                  Write write);
  void attention_of_few(Tensor out, Tensor log_sums, Tensor q, const CacheRows& k,
                        const CacheRows& v, std::span<const SequenceSpan> spans,
                        const HeadShape& shape);
  Tensor as_type(const CacheRows& cache, const SequenceSpan& span, DType type,
                 Workspace::Slot slot);
  void add_up(Tensor total, Tensor x, double (*kernel)(const float*, std::int64_t));

  int threads_;
  Isa isa_;
  const FloatKernels& float_kernels_;
  OnednnProducts products_;
  Workspace workspace_;
};

}  // namespace quest
