// Host tensors to a device and back, around each kernel.
#include "staged_backend.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <vector>

namespace quest {
namespace {

std::size_t extent(const Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  const std::int64_t stride = tensor.rows() > 1 ? tensor.row_stride : 0;
  const std::int64_t count = (tensor.rows() - 1) * stride + tensor.cols();
  return static_cast<std::size_t>(count) * size_bytes(tensor.dtype);
}

Tensor bytes_of(void* data, std::size_t count, Place place) {
  return Tensor(data, {static_cast<std::int64_t>(count)}, DType::kU8, place);
}

/// Copies of host tensors on a device while one kernel runs. Views keep their strides; tensors that
/// share memory on the host share it here, where the larger is staged first.
class Stage {
 public:
  explicit Stage(Backend& device) : device_(device) {}
  ~Stage();
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  Tensor in(const Tensor& host);
  /// As `in`; the elements are copied back in the end, and what lies between rows must be as
  /// before.
  Tensor out(const Tensor& host);
  QuantizedRows in(const QuantizedRows& rows) {
    return {in(rows.codes), in(rows.steps), in(rows.code_sums), in(rows.mask), rows.bits};
  }
  QuantizedRows out(const QuantizedRows& rows) {
    return {out(rows.codes), out(rows.steps), out(rows.code_sums), out(rows.mask), rows.bits};
  }
  PackedRows in(const PackedRows& rows) {
    return {in(rows.codes), in(rows.steps), in(rows.code_sums), rows.bits, rows.columns};
  }
  CacheRows in(const CacheRows& rows) { return {in(rows.values), in(rows.scales)}; }
  CacheRows out(const CacheRows& rows) { return {out(rows.values), out(rows.scales)}; }
  SequenceSpans in(const SequenceSpans& spans) {
    SequenceSpans staged = spans;
    staged.on_device = in(view_of(reinterpret_cast<const std::int64_t*>(spans.data()),
                                  {static_cast<std::int64_t>(spans.size()), 4}));
    return staged;
  }
  Rotary in(const Rotary& rotary) {
    return {in(rotary.cos), in(rotary.sin), rotary.layout, rotary.length, rotary.columns};
  }
  RoundingKey in(const RoundingKey& key) { return {key.words, in(view_of(&key.words[0], {2}))}; }
  Moment out(const Moment& moment) { return {out(moment.values), out(moment.scales)}; }

 private:
  struct Block {
    std::byte* host;
    std::byte* device;
    std::size_t bytes;
    std::vector<std::byte> before;
  };
  struct Output {
    Tensor host, device;
  };
  Block& block_of(const Tensor& host);

  Backend& device_;
  std::deque<Block> blocks_;
  std::vector<Output> outputs_;
};

Stage::Block& Stage::block_of(const Tensor& host) {
  auto* const data = static_cast<std::byte*>(host.data);
  const std::size_t bytes = extent(host);
  for (Block& block : blocks_) {
    if (data >= block.host && data + bytes <= block.host + block.bytes) return block;
  }
  auto* const memory = static_cast<std::byte*>(device_.allocate(bytes));
  blocks_.push_back({data, memory, bytes, {data, data + bytes}});
  device_.copy(bytes_of(memory, bytes, device_.place()), bytes_of(data, bytes, Place::kHost));
  return blocks_.back();
}

Tensor Stage::in(const Tensor& host) {
  if (!host || host.numel() == 0) return host;
  const Block& block = block_of(host);
  Tensor view = host;
  view.data = block.device + (static_cast<std::byte*>(host.data) - block.host);
  view.place = device_.place();
  return view;
}

Tensor Stage::out(const Tensor& host) {
  const Tensor view = in(host);
  if (view.numel() > 0 && view) outputs_.push_back({host, view});
  return view;
}

Stage::~Stage() {
  for (const Output& output : outputs_) {
    const Block& block = block_of(output.host);
    const std::size_t element = size_bytes(output.host.dtype);
    const auto width = static_cast<std::size_t>(output.host.cols()) * element;
    const auto pitch = static_cast<std::size_t>(output.host.row_stride) * element;
    if (output.host.data == block.host && outputs_.size() == 1 && pitch > width) {
      std::vector<std::byte> after(block.bytes);
      device_.copy(bytes_of(after.data(), block.bytes, Place::kHost),
                   bytes_of(block.device, block.bytes, device_.place()));
      for (std::size_t at = width; at + pitch - width <= block.bytes; at += pitch) {
        EXPECT_EQ(std::memcmp(after.data() + at, block.before.data() + at, pitch - width), 0)
            << "a kernel wrote between the rows of its output";
      }
    }
    device_.copy(output.host, output.device);
  }
  for (const Block& block : blocks_) device_.deallocate(block.device, block.bytes);
}

/// Every kernel of a device, on tensors of the host.
class StagedBackend : public Backend {
 public:
  explicit StagedBackend(std::unique_ptr<Backend> device) : device_(std::move(device)) {}

  std::string name() const override { return device_->name(); }
  Place place() const override { return Place::kHost; }
  int threads() const override { return device_->threads(); }
  void* allocate(std::size_t) override { return nullptr; }
  void deallocate(void*, std::size_t) noexcept override {}
  void synchronize() override { device_->synchronize(); }

  void copy(Tensor dst, Tensor src) override {
    Stage s(*device_);
    device_->copy(s.out(dst), s.in(src));
  }
  void zero(Tensor dst) override {
    Stage s(*device_);
    device_->zero(s.out(dst));
  }
  void cast(Tensor dst, Tensor src) override {
    Stage s(*device_);
    device_->cast(s.out(dst), s.in(src));
  }
  void quantize_rows(const QuantizedRows& rows, Tensor x, const RowQuantizer& quantizer) override {
    Stage s(*device_);
    device_->quantize_rows(s.out(rows), s.in(x), quantizer);
  }
  void quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                              Write write) override {
    Stage s(*device_);
    device_->quantize_rows_backward(s.out(d_x), s.in(d_z), s.in(mask), block, write);
  }
  void dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) override {
    Stage s(*device_);
    device_->dequantize_rows(s.out(out), s.in(rows), block);
  }
  void quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                          const RowQuantizer& quantizer) override {
    Stage s(*device_);
    device_->quantization_error(s.out(sums), s.in(x), s.in(rows), quantizer);
  }
  void matmul(Tensor y, Tensor x, Tensor w, Write write) override {
    Stage s(*device_);
    device_->matmul(s.out(y), s.in(x), s.in(w), write);
  }
  void matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) override {
    Stage s(*device_);
    device_->matmul_grad_input(s.out(d_x), s.in(d_y), s.in(w), write);
  }
  void matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) override {
    Stage s(*device_);
    device_->matmul_grad_weight(s.out(d_w), s.in(d_y), s.in(x), write);
  }
  void quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                        Write write) override {
    Stage s(*device_);
    device_->quantized_matmul(s.out(y), s.in(x), s.in(w), write);
  }
  void quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                   Write write) override {
    Stage s(*device_);
    device_->quantized_matmul_grad_input(s.out(d_z), s.in(d_y), s.in(w), write);
  }
  void quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                    Write write) override {
    Stage s(*device_);
    device_->quantized_matmul_grad_weight(s.out(d_z), s.in(d_y), s.in(x), write);
  }
  void integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                 const RoundingKey& key, Write write) override {
    Stage s(*device_);
    device_->integer_matmul_grad_input(s.out(d_z), s.in(d_y), s.in(w), s.in(key), write);
  }
  void integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                  const RoundingKey& key, Write write) override {
    Stage s(*device_);
    device_->integer_matmul_grad_weight(s.out(d_z), s.in(d_y), s.in(x), s.in(key), write);
  }
  void packed_matmul(Tensor y, const QuantizedRows& x, int x_bits, const PackedRows& w,
                     Write write) override {
    Stage s(*device_);
    device_->packed_matmul(s.out(y), s.in(x), x_bits, s.in(w), write);
  }
  void quantize_packed_matmul(Tensor y, const QuantizedRows& rows, const RowSource& source,
                              const RowQuantizer& quantizer, int x_bits, const PackedRows& w,
                              Write write) override {
    Stage s(*device_);
    RowSource staged{s.in(source.x)};
    if (const auto* norm = std::get_if<RowSource::Norm>(&source.made_of)) {
      staged.made_of =
          RowSource::Norm{s.out(norm->rstd), s.in(norm->x), s.in(norm->weight), norm->epsilon};
    } else if (const auto* swiglu = std::get_if<RowSource::Swiglu>(&source.made_of)) {
      staged.made_of = RowSource::Swiglu{s.in(swiglu->gate), s.in(swiglu->up)};
    }
    device_->quantize_packed_matmul(s.out(y), s.out(rows), staged, quantizer, x_bits, s.in(w),
                                    write);
  }
  void packed_dense_matmul(Tensor y, Tensor x, const PackedRows& w, std::int64_t block,
                           Write write) override {
    Stage s(*device_);
    device_->packed_dense_matmul(s.out(y), s.in(x), s.in(w), block, write);
  }
  void stored_matmul(Tensor y, Tensor x, Tensor w, Write write) override {
    Stage s(*device_);
    device_->stored_matmul(s.out(y), s.in(x), s.in(w), write);
  }
  void packed_embedding(Tensor x, Tensor tokens, const PackedRows& table,
                        std::int64_t block) override {
    Stage s(*device_);
    device_->packed_embedding(s.out(x), s.in(tokens), s.in(table), block);
  }
  void embedding(Tensor x, Tensor tokens, Tensor table) override {
    Stage s(*device_);
    device_->embedding(s.out(x), s.in(tokens), s.in(table));
  }
  void embedding_backward(Tensor d_table, Tensor d_x, Tensor tokens) override {
    Stage s(*device_);
    device_->embedding_backward(s.out(d_table), s.in(d_x), s.in(tokens));
  }
  void rmsnorm(Tensor y, Tensor rstd, Tensor x, Tensor weight, float epsilon) override {
    Stage s(*device_);
    device_->rmsnorm(s.out(y), s.out(rstd), s.in(x), s.in(weight), epsilon);
  }
  void rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x, Tensor weight,
                        float epsilon, const RowQuantizer& quantizer) override {
    Stage s(*device_);
    device_->rmsnorm_quantize(s.out(rows), s.out(y), s.out(rstd), s.in(x), s.in(weight), epsilon,
                              quantizer);
  }
  void rmsnorm_backward(Tensor d_x, Tensor rounded, Tensor d_weight, Tensor d_y, Tensor x,
                        Tensor weight, Tensor rstd) override {
    Stage s(*device_);
    device_->rmsnorm_backward(s.out(d_x), s.out(rounded), s.out(d_weight), s.in(d_y), s.in(x),
                              s.in(weight), s.in(rstd));
  }
  void rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout, std::int64_t first_position,
            std::int64_t length, bool inverse) override {
    Stage s(*device_);
    device_->rope(s.out(x), s.in(cos), s.in(sin), layout, first_position, length, inverse);
  }
  void cached_rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                   const SequenceSpans& spans) override {
    Stage s(*device_);
    device_->cached_rope(s.out(x), s.in(cos), s.in(sin), layout, s.in(spans));
  }
  void attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                 const AttentionShape& shape) override {
    Stage s(*device_);
    device_->attention(s.out(out), s.out(log_sums), s.in(q), s.in(k), s.in(v), shape);
  }
  void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k,
                          Tensor v, Tensor out, Tensor log_sums,
                          const AttentionShape& shape) override {
    Stage s(*device_);
    device_->attention_backward(s.out(d_q), s.out(d_k), s.out(d_v), s.in(d_out), s.in(q), s.in(k),
                                s.in(v), s.in(out), s.in(log_sums), shape);
  }
  void cached_rope_append(Tensor qkv, const Rotary& rotary, const CacheRows& k, const CacheRows& v,
                          const SequenceSpans& spans) override {
    Stage s(*device_);
    device_->cached_rope_append(s.out(qkv), s.in(rotary), s.out(k), s.out(v), s.in(spans));
  }
  void cache_append(const CacheRows& cache, Tensor x, const SequenceSpans& spans) override {
    Stage s(*device_);
    device_->cache_append(s.out(cache), s.in(x), s.in(spans));
  }
  void cached_attention(Tensor out, Tensor q, const CacheRows& k, const CacheRows& v,
                        const SequenceSpans& spans, const HeadShape& shape) override {
    Stage s(*device_);
    device_->cached_attention(s.out(out), s.in(q), s.in(k), s.in(v), s.in(spans), shape);
  }
  void cached_rope_attention(Tensor out, Tensor qkv, const Rotary& rotary, const CacheRows& k,
                             const CacheRows& v, const SequenceSpans& spans,
                             const HeadShape& shape) override {
    Stage s(*device_);
    device_->cached_rope_attention(s.out(out), s.out(qkv), s.in(rotary), s.out(k), s.out(v),
                                   s.in(spans), shape);
  }
  void swiglu(Tensor h, Tensor gate, Tensor up) override {
    Stage s(*device_);
    device_->swiglu(s.out(h), s.in(gate), s.in(up));
  }
  void swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                       const RowQuantizer& quantizer) override {
    Stage s(*device_);
    device_->swiglu_quantize(s.out(rows), s.out(h), s.in(gate), s.in(up), quantizer);
  }
  void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate, Tensor up) override {
    Stage s(*device_);
    device_->swiglu_backward(s.out(d_gate), s.out(d_up), s.in(d_h), s.in(gate), s.in(up));
  }
  void cross_entropy(Tensor losses, Tensor correct, Tensor d_logits, Tensor logits, Tensor targets,
                     float scale) override {
    Stage s(*device_);
    const Tensor staged_logits = s.in(logits);  // first: the gradient may lie in its memory
    device_->cross_entropy(s.out(losses), s.out(correct), s.out(d_logits), staged_logits,
                           s.in(targets), scale);
  }
  void sum(Tensor total, Tensor x) override {
    Stage s(*device_);
    device_->sum(s.out(total), s.in(x));
  }
  void sum_squares(Tensor total, Tensor x) override {
    Stage s(*device_);
    device_->sum_squares(s.out(total), s.in(x));
  }
  void clip_scale(Tensor scale, Tensor sums, float max_norm) override {
    Stage s(*device_);
    device_->clip_scale(s.out(scale), s.in(sums), max_norm);
  }
  void adamw(Tensor parameter, const Moment& first, const Moment& second, Tensor gradient,
             Tensor grad_scale, const AdamWStep& step) override {
    Stage s(*device_);
    const AdamWFactors factors = adamw_factors(step);
    AdamWStep staged = step;
    staged.on_device = s.in(view_of(&factors.beta1, {kAdamWFactors}));
    device_->adamw(s.out(parameter), s.out(first), s.out(second), s.in(gradient), s.in(grad_scale),
                   staged);
  }

 private:
  std::unique_ptr<Backend> device_;
};

}  // namespace

std::unique_ptr<Backend> make_staged_backend(std::unique_ptr<Backend> device) {
  return std::make_unique<StagedBackend>(std::move(device));
}

}  // namespace quest
