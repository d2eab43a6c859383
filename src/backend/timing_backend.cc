// TimingBackend: one line a kernel.
#include "backend/timing_backend.h"

#include <initializer_list>
#include <numeric>

namespace quest {
namespace {

constexpr std::array<std::string_view, kWorkKinds> kWorkNames = {
    "forward_product", "backward_product", "quantize",  "attention", "norm",
    "elementwise",     "cross_entropy",    "embedding", "optimizer", "move"};

double bytes_of(std::initializer_list<Tensor> tensors) {
  double total = 0;
  for (const Tensor& tensor : tensors) {
    if (tensor) total += static_cast<double>(tensor.bytes());
  }
  return total;
}

double bytes_of(const QuantizedRows& rows) {
  return bytes_of({rows.codes, rows.steps, rows.code_sums});
}

double bytes_of(const PackedRows& rows) {
  return bytes_of({rows.codes, rows.steps, rows.code_sums});
}

double bytes_of(const Moment& moment) { return bytes_of({moment.values, moment.scales}); }

// A kernel without products.
KernelWork moves(double bytes) { return {Unit::kNone, 0, bytes}; }
KernelWork moves(std::initializer_list<Tensor> tensors) { return moves(bytes_of(tensors)); }

Unit float_unit(const Tensor& operand) {
  return operand.dtype == DType::kBF16 ? Unit::kBF16 : Unit::kF32;
}

// A product with the given output and summed length, whose operands have `operand_bytes`.
KernelWork product(Unit unit, const Tensor& out, std::int64_t summed, double operand_bytes,
                   Write write) {
  const double out_bytes = bytes_of({out}) * (write == Write::kAdd ? 2 : 1);
  return {unit, 2.0 * static_cast<double>(out.numel()) * static_cast<double>(summed),
          operand_bytes + out_bytes};
}
KernelWork integer_product(int x_bits, int w_bits, const Tensor& out, std::int64_t summed,
                           double operand_bytes, Write write) {
  KernelWork work = product(Unit::kInt8, out, summed, operand_bytes, write);
  work.bit_pairs = x_bits * w_bits;
  return work;
}

// Scores and values over the visible pairs of positions.
double attention_flops(const AttentionShape& s) {
  const double visible =
      static_cast<double>(s.key_length) - static_cast<double>(s.query_length - 1) / 2.0;
  return 4.0 * static_cast<double>(s.batch * s.heads * s.query_length * s.head_dim) * visible;
}

double attention_flops(const SequenceSpans& spans, const HeadShape& shape) {
  double flops = 0;
  for (const SequenceSpan& span : spans) {
    flops += attention_flops({1, span.count, span.key_length(), span.key_length(), shape.heads,
                              shape.kv_heads, shape.head_dim});
  }
  return flops;
}

}  // namespace

std::string_view work_name(Work work) { return kWorkNames[static_cast<std::size_t>(work)]; }

double WorkTimes::total_seconds() const {
  return std::accumulate(seconds.begin(), seconds.end(), 0.0);
}

double WorkTimes::total_bound_seconds() const {
  return std::accumulate(bound_seconds.begin(), bound_seconds.end(), 0.0);
}

const WorkTimes& TimingBackend::times() {
  inner_.synchronize();
  for (const auto& [kind, work, first_mark, last_mark] : runs_) {
    const auto i = static_cast<std::size_t>(kind);
    times_.seconds[i] += stopwatch_->seconds(first_mark, last_mark);
    times_.operations[i] += work.operations;
    if (roofline_) times_.bound_seconds[i] += roofline_->bound(work).seconds;
  }
  forget_marks();
  return times_;
}

void TimingBackend::reset_times() {
  forget_marks();
  times_ = {};
}

void TimingBackend::forget_marks() {
  runs_.clear();
  stopwatch_->clear();
  marks_ = 0;
}

// Records as the inner backend does; what would be replayed calls its body while times are kept.
class TimingBackend::TimedRecording : public Recording {
 public:
  explicit TimedRecording(TimingBackend& backend)
      : backend_(backend), recording_(backend.inner_.make_recording()) {}

  void run(const std::function<void()>& body) override {
    if (backend_.keeps_ && recording_->replays()) return body();
    recording_->run(body);
  }
  bool replays() const override { return recording_->replays(); }

 private:
  TimingBackend& backend_;
  std::unique_ptr<Recording> recording_;
};

std::unique_ptr<Recording> TimingBackend::make_recording() {
  return std::make_unique<TimedRecording>(*this);
}

void TimingBackend::copy(Tensor dst, Tensor src) {
  timed(Work::kMove, moves({dst, src}), [&] { inner_.copy(dst, src); });
}

void TimingBackend::zero(Tensor dst) {
  timed(Work::kMove, moves({dst}), [&] { inner_.zero(dst); });
}

void TimingBackend::cast(Tensor dst, Tensor src) {
  timed(Work::kMove, moves({dst, src}), [&] { inner_.cast(dst, src); });
}

void TimingBackend::quantize_rows(const QuantizedRows& rows, Tensor x,
                                  const RowQuantizer& quantizer) {
  timed(Work::kQuantize, moves(bytes_of({x, rows.mask}) + bytes_of(rows)),
        [&] { inner_.quantize_rows(rows, x, quantizer); });
}

void TimingBackend::quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                                           Write write) {
  timed(Work::kQuantize,
        moves(bytes_of({d_z, mask}) + bytes_of({d_x}) * (write == Write::kAdd ? 2 : 1)),
        [&] { inner_.quantize_rows_backward(d_x, d_z, mask, block, write); });
}

void TimingBackend::dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) {
  timed(Work::kQuantize, moves(bytes_of({out}) + bytes_of(rows)),
        [&] { inner_.dequantize_rows(out, rows, block); });
}

void TimingBackend::quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                                       const RowQuantizer& quantizer) {
  timed(Work::kQuantize, moves(bytes_of({x}) + bytes_of(rows)),
        [&] { inner_.quantization_error(sums, x, rows, quantizer); });
}

void TimingBackend::matmul(Tensor y, Tensor x, Tensor w, Write write) {
  timed(Work::kForwardProduct, product(float_unit(x), y, x.cols(), bytes_of({x, w}), write),
        [&] { inner_.matmul(y, x, w, write); });
}

void TimingBackend::matmul_rope(Tensor y, Tensor x, Tensor w, const Rotary& rotary) {
  timed(Work::kForwardProduct, product(float_unit(x), y, x.cols(), bytes_of({x, w}), Write::kSet),
        [&] { inner_.matmul_rope(y, x, w, rotary); });
}

void TimingBackend::matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) {
  timed(Work::kBackwardProduct,
        product(float_unit(d_y), d_x, d_y.cols(), bytes_of({d_y, w}), write),
        [&] { inner_.matmul_grad_input(d_x, d_y, w, write); });
}

void TimingBackend::matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) {
  timed(Work::kBackwardProduct,
        product(float_unit(d_y), d_w, d_y.rows(), bytes_of({d_y, x}), write),
        [&] { inner_.matmul_grad_weight(d_w, d_y, x, write); });
}

void TimingBackend::quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                                     Write write) {
  timed(Work::kForwardProduct,
        integer_product(x.bits, w.bits, y, x.codes.cols(), bytes_of(x) + bytes_of(w), write),
        [&] { inner_.quantized_matmul(y, x, w, write); });
}

void TimingBackend::quantized_matmul_rope(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                                          const Rotary& rotary) {
  timed(Work::kForwardProduct,
        integer_product(x.bits, w.bits, y, x.codes.cols(), bytes_of(x) + bytes_of(w), Write::kSet),
        [&] { inner_.quantized_matmul_rope(y, x, w, rotary); });
}

void TimingBackend::quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                                Write write) {
  timed(Work::kBackwardProduct,
        product(float_unit(d_y), d_z, d_y.cols(), bytes_of({d_y}) + bytes_of(w), write),
        [&] { inner_.quantized_matmul_grad_input(d_z, d_y, w, write); });
}

void TimingBackend::quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                                 Write write) {
  timed(Work::kBackwardProduct,
        product(float_unit(d_y), d_z, d_y.rows(), bytes_of({d_y}) + bytes_of(x), write),
        [&] { inner_.quantized_matmul_grad_weight(d_z, d_y, x, write); });
}

void TimingBackend::integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                              const RoundingKey& key, Write write) {
  timed(Work::kBackwardProduct,
        product(Unit::kInt8, d_z, d_y.cols(), bytes_of({d_y}) + bytes_of(w), write),
        [&] { inner_.integer_matmul_grad_input(d_z, d_y, w, key, write); });
}

void TimingBackend::integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                               const RoundingKey& key, Write write) {
  timed(Work::kBackwardProduct,
        product(Unit::kInt8, d_z, d_y.rows(), bytes_of({d_y}) + bytes_of(x), write),
        [&] { inner_.integer_matmul_grad_weight(d_z, d_y, x, key, write); });
}

void TimingBackend::packed_matmul(Tensor y, const QuantizedRows& x, int x_bits, const PackedRows& w,
                                  Write write) {
  timed(Work::kForwardProduct,
        integer_product(x_bits, w.bits, y, w.columns, bytes_of(x) + bytes_of(w), write),
        [&] { inner_.packed_matmul(y, x, x_bits, w, write); });
}

void TimingBackend::quantize_packed_matmul(Tensor y, const QuantizedRows& rows,
                                           const RowSource& source, const RowQuantizer& quantizer,
                                           int x_bits, const PackedRows& w, Write write) {
  // Of one kernel it could not be told what its two halves take.
  if (keeps_) {
    Backend::quantize_packed_matmul(y, rows, source, quantizer, x_bits, w, write);
  } else {
    inner_.quantize_packed_matmul(y, rows, source, quantizer, x_bits, w, write);
  }
}

void TimingBackend::packed_dense_matmul(Tensor y, Tensor x, const PackedRows& w, std::int64_t block,
                                        Write write) {
  timed(Work::kForwardProduct,
        product(float_unit(x), y, w.columns, bytes_of({x}) + bytes_of(w), write),
        [&] { inner_.packed_dense_matmul(y, x, w, block, write); });
}

void TimingBackend::stored_matmul(Tensor y, Tensor x, Tensor w, Write write) {
  timed(Work::kForwardProduct, product(float_unit(x), y, x.cols(), bytes_of({x, w}), write),
        [&] { inner_.stored_matmul(y, x, w, write); });
}

void TimingBackend::packed_embedding(Tensor x, Tensor tokens, const PackedRows& table,
                                     std::int64_t block) {
  timed(Work::kEmbedding, moves(2 * bytes_of({x})),
        [&] { inner_.packed_embedding(x, tokens, table, block); });
}

void TimingBackend::embedding(Tensor x, Tensor tokens, Tensor table) {
  timed(Work::kEmbedding, moves(2 * bytes_of({x})), [&] { inner_.embedding(x, tokens, table); });
}

void TimingBackend::embedding_backward(Tensor d_table, Tensor d_x, Tensor tokens) {
  timed(Work::kEmbedding, moves(3 * bytes_of({d_x})),
        [&] { inner_.embedding_backward(d_table, d_x, tokens); });
}

void TimingBackend::rmsnorm(Tensor y, Tensor rstd, Tensor x, Tensor weight, float epsilon) {
  timed(Work::kNorm, moves({x, y}), [&] { inner_.rmsnorm(y, rstd, x, weight, epsilon); });
}

void TimingBackend::rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x,
                                     Tensor weight, float epsilon, const RowQuantizer& quantizer) {
  timed(Work::kQuantize, moves(bytes_of({x, rows.mask}) + bytes_of(rows)),
        [&] { inner_.rmsnorm_quantize(rows, y, rstd, x, weight, epsilon, quantizer); });
}

void TimingBackend::rmsnorm_backward(Tensor d_x, Tensor rounded, Tensor d_weight, Tensor d_y,
                                     Tensor x, Tensor weight, Tensor rstd) {
  timed(Work::kNorm, moves({d_x, d_x, rounded, d_y, x}),
        [&] { inner_.rmsnorm_backward(d_x, rounded, d_weight, d_y, x, weight, rstd); });
}

void TimingBackend::rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                         std::int64_t first_position, std::int64_t length, bool inverse) {
  timed(Work::kElementwise, moves({x, x}),
        [&] { inner_.rope(x, cos, sin, layout, first_position, length, inverse); });
}

void TimingBackend::cached_rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                                const SequenceSpans& spans) {
  timed(Work::kElementwise, moves({x, x}), [&] { inner_.cached_rope(x, cos, sin, layout, spans); });
}

void TimingBackend::attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                              const AttentionShape& shape) {
  timed(Work::kAttention, {float_unit(q), attention_flops(shape), bytes_of({q, k, v, out})},
        [&] { inner_.attention(out, log_sums, q, k, v, shape); });
}

void TimingBackend::attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                                       Tensor k, Tensor v, Tensor out, Tensor log_sums,
                                       const AttentionShape& shape) {
  timed(Work::kAttention,
        {float_unit(q), 2.5 * attention_flops(shape), 2 * bytes_of({q, k, v, out})},
        [&] { inner_.attention_backward(d_q, d_k, d_v, d_out, q, k, v, out, log_sums, shape); });
}

void TimingBackend::cache_append(const CacheRows& cache, Tensor x, const SequenceSpans& spans) {
  timed(Work::kMove, moves(2 * bytes_of({x})), [&] { inner_.cache_append(cache, x, spans); });
}

void TimingBackend::cached_rope_append(Tensor qkv, const Rotary& rotary, const CacheRows& k,
                                       const CacheRows& v, const SequenceSpans& spans) {
  timed(Work::kElementwise, moves({qkv, qkv}),
        [&] { inner_.cached_rope_append(qkv, rotary, k, v, spans); });
}

void TimingBackend::cached_attention(Tensor out, Tensor q, const CacheRows& k, const CacheRows& v,
                                     const SequenceSpans& spans, const HeadShape& shape) {
  timed(Work::kAttention, {float_unit(q), attention_flops(spans, shape), bytes_of({q, out})},
        [&] { inner_.cached_attention(out, q, k, v, spans, shape); });
}

void TimingBackend::cached_rope_attention(Tensor out, Tensor qkv, const Rotary& rotary,
                                          const CacheRows& k, const CacheRows& v,
                                          const SequenceSpans& spans, const HeadShape& shape) {
  timed(Work::kAttention, {float_unit(qkv), attention_flops(spans, shape), bytes_of({qkv, out})},
        [&] { inner_.cached_rope_attention(out, qkv, rotary, k, v, spans, shape); });
}

void TimingBackend::swiglu(Tensor h, Tensor gate, Tensor up) {
  timed(Work::kElementwise, moves({h, gate, up}), [&] { inner_.swiglu(h, gate, up); });
}

void TimingBackend::swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                                    const RowQuantizer& quantizer) {
  timed(Work::kQuantize, moves(bytes_of({gate, up, rows.mask}) + bytes_of(rows)),
        [&] { inner_.swiglu_quantize(rows, h, gate, up, quantizer); });
}

void TimingBackend::swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate,
                                    Tensor up) {
  timed(Work::kElementwise, moves({d_gate, d_up, d_h, gate, up}),
        [&] { inner_.swiglu_backward(d_gate, d_up, d_h, gate, up); });
}

void TimingBackend::cross_entropy(Tensor losses, Tensor correct, Tensor d_logits, Tensor logits,
                                  Tensor targets, float scale) {
  timed(Work::kCrossEntropy, moves({logits, d_logits}),
        [&] { inner_.cross_entropy(losses, correct, d_logits, logits, targets, scale); });
}

void TimingBackend::sum(Tensor total, Tensor x) {
  timed(Work::kOptimizer, moves({x}), [&] { inner_.sum(total, x); });
}

void TimingBackend::sum_squares(Tensor total, Tensor x) {
  timed(Work::kOptimizer, moves({x}), [&] { inner_.sum_squares(total, x); });
}

void TimingBackend::clip_scale(Tensor scale, Tensor sums, float max_norm) {
  timed(Work::kOptimizer, moves({scale, sums}), [&] { inner_.clip_scale(scale, sums, max_norm); });
}

void TimingBackend::adamw(Tensor parameter, const Moment& first, const Moment& second,
                          Tensor gradient, Tensor grad_scale, const AdamWStep& step) {
  timed(
      Work::kOptimizer,
      moves(bytes_of({parameter, parameter, gradient}) + 2 * (bytes_of(first) + bytes_of(second))),
      [&] { inner_.adamw(parameter, first, second, gradient, grad_scale, step); });
}

}  // namespace quest
