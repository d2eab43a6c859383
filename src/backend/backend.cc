// Backend: the answers of a device that cannot run packed models or fuses nothing.
#include "backend/backend.h"

#include <chrono>
#include <cmath>
#include <vector>

#include "core/error.h"

namespace quest {
namespace {

[[noreturn]] void fail_packed(const Backend& backend) {
  fail("the device '{}' cannot run packed models; use --device cpu", backend.name());
}

// Of a backend whose kernels have ended when they return, or end when it is waited for.
class HostStopwatch : public Stopwatch {
 public:
  explicit HostStopwatch(Backend& backend) : backend_(backend) {}

  void mark() override {
    backend_.synchronize();
    marks_.push_back(Clock::now());
  }
  double seconds(std::size_t from, std::size_t to) const override {
    return std::chrono::duration<double>(marks_[to] - marks_[from]).count();
  }
  void clear() override { marks_.clear(); }

 private:
  using Clock = std::chrono::steady_clock;
  Backend& backend_;
  std::vector<Clock::time_point> marks_;
};

void turn(Backend& backend, Tensor y, const Rotary& r) {
  backend.rope(y.columns(0, r.columns), r.cos, r.sin, r.layout, 0, r.length, false);
}

}  // namespace

AdamWFactors adamw_factors(const AdamWStep& step) {
  const auto steps = static_cast<double>(step.step);
  const auto narrow = [](double value) { return static_cast<float>(value); };
  return {
      .beta1 = step.beta1,
      .one_minus_beta1 = narrow(1.0 - step.beta1),
      .beta2 = step.beta2,
      .one_minus_beta2 = narrow(1.0 - step.beta2),
      .inverse_correction1 = narrow(1.0 / (1.0 - std::pow(double{step.beta1}, steps))),
      .inverse_correction2 = narrow(1.0 / (1.0 - std::pow(double{step.beta2}, steps))),
      .epsilon = step.epsilon,
      .learning_rate = step.learning_rate,
      .decay = narrow(1.0 - double{step.learning_rate} * step.weight_decay),
  };
}

std::unique_ptr<Stopwatch> Backend::make_stopwatch() {
  return std::make_unique<HostStopwatch>(*this);
}

std::unique_ptr<Recording> Backend::make_recording() { return std::make_unique<Recording>(); }

void Backend::packed_matmul(Tensor, const QuantizedRows&, int, const PackedRows&, Write) {
  fail_packed(*this);
}
void Backend::packed_dense_matmul(Tensor, Tensor, const PackedRows&, std::int64_t, Write) {
  fail_packed(*this);
}
void Backend::stored_matmul(Tensor, Tensor, Tensor, Write) { fail_packed(*this); }
void Backend::packed_embedding(Tensor, Tensor, const PackedRows&, std::int64_t) {
  fail_packed(*this);
}

void Backend::matmul_rope(Tensor y, Tensor x, Tensor w, const Rotary& rotary) {
  matmul(y, x, w, Write::kSet);
  turn(*this, y, rotary);
}
void Backend::quantized_matmul_rope(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                                    const Rotary& rotary) {
  quantized_matmul(y, x, w, Write::kSet);
  turn(*this, y, rotary);
}

void Backend::cached_rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                          const SequenceSpans& spans) {
  for (const SequenceSpan& span : spans) {
    const Tensor rows = x.rows_slice(span.first_row, span.first_row + span.count);
    rope(rows, cos, sin, layout, span.position, span.count, false);
  }
}

void Backend::cached_rope_append(Tensor qkv, const Rotary& rotary, const CacheRows& k,
                                 const CacheRows& v, const SequenceSpans& spans) {
  const std::int64_t turned = rotary.columns, width = k.values.cols();
  cached_rope(qkv.columns(0, turned), rotary.cos, rotary.sin, rotary.layout, spans);
  cache_append(k, qkv.columns(turned - width, turned), spans);
  cache_append(v, qkv.columns(turned, turned + width), spans);
}

void Backend::cached_rope_attention(Tensor out, Tensor qkv, const Rotary& rotary,
                                    const CacheRows& k, const CacheRows& v,
                                    const SequenceSpans& spans, const HeadShape& shape) {
  cached_rope_append(qkv, rotary, k, v, spans);
  cached_attention(out, qkv.columns(0, shape.heads * shape.head_dim), k, v, spans, shape);
}

void Backend::quantize_source(const QuantizedRows& rows, const RowSource& source,
                              const RowQuantizer& quantizer) {
  if (const auto* norm = std::get_if<RowSource::Norm>(&source.made_of)) {
    rmsnorm_quantize(rows, source.x, norm->rstd, norm->x, norm->weight, norm->epsilon, quantizer);
  } else if (const auto* swiglu = std::get_if<RowSource::Swiglu>(&source.made_of)) {
    swiglu_quantize(rows, source.x, swiglu->gate, swiglu->up, quantizer);
  } else {
    quantize_rows(rows, source.x, quantizer);
  }
}
void Backend::quantize_packed_matmul(Tensor y, const QuantizedRows& rows, const RowSource& source,
                                     const RowQuantizer& quantizer, int x_bits, const PackedRows& w,
                                     Write write) {
  quantize_source(rows, source, quantizer);
  packed_matmul(y, rows, x_bits, w, write);
}
void Backend::rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x,
                               Tensor weight, float epsilon, const RowQuantizer& quantizer) {
  rmsnorm(y, rstd, x, weight, epsilon);
  quantize_rows(rows, y, quantizer);
}
void Backend::swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                              const RowQuantizer& quantizer) {
  swiglu(h, gate, up);
  quantize_rows(rows, h, quantizer);
}

}  // namespace quest
