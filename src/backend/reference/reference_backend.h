// ReferenceBackend: every kernel as plain loops with sums in double; the executable specification.
#pragma once

#include "backend/backend.h"

namespace quest {

/// See backend.h for what each kernel computes. Host memory, one thread, no cleverness.
class ReferenceBackend : public Backend {
 public:
  std::string name() const override { return "reference"; }
  Place place() const override { return Place::kHost; }
  int threads() const override { return 1; }
  void* allocate(std::size_t bytes) override;
  void deallocate(void* data, std::size_t bytes) noexcept override;
  void synchronize() override {}

  void copy(Tensor dst, Tensor src) override;
  void zero(Tensor dst) override;
  void cast(Tensor dst, Tensor src) override;

  void quantize_rows(const QuantizedRows& rows, Tensor x, const RowQuantizer& quantizer) override;
  void quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                              Write write) override;
  void dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) override;
  void quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                          const RowQuantizer& quantizer) override;

  void matmul(Tensor y, Tensor x, Tensor w, Write write) override;
  void matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) override;
  void matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) override;
  void quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                        Write write) override;
  void quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                   Write write) override;
  void quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                    Write write) override;
  void integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                 const RoundingKey& key, Write write) override;
  void integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                  const RoundingKey& key, Write write) override;

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
  void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate, Tensor up) override;
  void cross_entropy(Tensor losses, Tensor correct, Tensor d_logits, Tensor logits, Tensor targets,
                     float scale) override;

  void sum(Tensor total, Tensor x) override;
  void sum_squares(Tensor total, Tensor x) override;
  void clip_scale(Tensor scale, Tensor sums, float max_norm) override;
  void adamw(Tensor parameter, const Moment& first, const Moment& second, Tensor gradient,
             Tensor grad_scale, const AdamWStep& step) override;
};

}  // namespace quest
