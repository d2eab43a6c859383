// TimingBackend: passes every kernel on to another backend and keeps the time by kind of work.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "backend/roofline.h"

namespace quest {

/// The kinds of work that logs and benchmarks tell apart.
enum class Work : std::uint8_t {
  kForwardProduct,
  kBackwardProduct,
  kQuantize,
  kAttention,
  kNorm,
  kElementwise,
  kCrossEntropy,
  kEmbedding,
  kOptimizer,
  kMove,
};
inline constexpr std::size_t kWorkKinds = 10;
/// "forward_product", ...
std::string_view work_name(Work work);

/// Seconds and operations (multiply-adds count two) by kind of work since the last reset.
struct WorkTimes {
  std::array<double, kWorkKinds> seconds{};
  std::array<double, kWorkKinds> operations{};
  /// Sums of the kernels' bounds; zeros where there is no roofline.
  std::array<double, kWorkKinds> bound_seconds{};

  double total_seconds() const;
  double total_bound_seconds() const;
};

/// Wraps a backend that outlives it. What a recording has replayed cannot be told apart: while
/// times are kept, recordings that would replay call their bodies, kernel by kernel.
class TimingBackend : public Backend {
 public:
  explicit TimingBackend(Backend& inner) : inner_(inner), stopwatch_(inner.make_stopwatch()) {}

  /// Waits for everything that was asked for.
  const WorkTimes& times();
  void reset_times();
  /// From now on times are kept (as from the beginning) or not.
  void keep_times(bool keep) { keeps_ = keep; }
  /// From now on the least time of each kernel is booked too.
  void set_roofline(const Roofline& roofline) {
    times();
    roofline_ = roofline;
  }

  std::string name() const override { return inner_.name(); }
  Place place() const override { return inner_.place(); }
  int threads() const override { return inner_.threads(); }
  void* allocate(std::size_t bytes) override { return inner_.allocate(bytes); }
  void deallocate(void* data, std::size_t bytes) noexcept override {
    inner_.deallocate(data, bytes);
  }
  void synchronize() override { inner_.synchronize(); }
  std::unique_ptr<Recording> make_recording() override;

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
  void matmul_rope(Tensor y, Tensor x, Tensor w, const Rotary& rotary) override;
  void matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) override;
  void matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) override;
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
  void packed_matmul(Tensor y, const QuantizedRows& x, int x_bits, const PackedRows& w,
                     Write write) override;
  void quantize_packed_matmul(Tensor y, const QuantizedRows& rows, const RowSource& source,
                              const RowQuantizer& quantizer, int x_bits, const PackedRows& w,
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
  void cached_rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                   const SequenceSpans& spans) override;
  void attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                 const AttentionShape& shape) override;
  void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k,
                          Tensor v, Tensor out, Tensor log_sums,
                          const AttentionShape& shape) override;
  void cache_append(const CacheRows& cache, Tensor x, const SequenceSpans& spans) override;
  void cached_rope_append(Tensor qkv, const Rotary& rotary, const CacheRows& k, const CacheRows& v,
                          const SequenceSpans& spans) override;
  void cached_attention(Tensor out, Tensor q, const CacheRows& k, const CacheRows& v,
                        const SequenceSpans& spans, const HeadShape& shape) override;
  void cached_rope_attention(Tensor out, Tensor qkv, const Rotary& rotary, const CacheRows& k,
                             const CacheRows& v, const SequenceSpans& spans,
                             const HeadShape& shape) override;
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
  class TimedRecording;

  struct Run {
    Work kind;
    KernelWork work;
    std::size_t first_mark, last_mark;
  };

  // Marks are few enough that a pass without `times` takes no memory to speak of.
  static constexpr std::size_t kMostRuns = 4096;

  // Runs `kernel` between two marks; `times` books its time, and what it does, under `kind`. One
  // that throws is not booked.
  template <typename Kernel>
  void timed(Work kind, const KernelWork& work, Kernel kernel) {
    if (!keeps_) return kernel();
    if (marks_ + 2 > 2 * kMostRuns) times();
    const std::size_t first = marks_++;
    stopwatch_->mark();
    kernel();
    stopwatch_->mark();
    runs_.push_back({kind, work, first, marks_++});
  }

  void forget_marks();

  Backend& inner_;
  std::unique_ptr<Stopwatch> stopwatch_;
  std::vector<Run> runs_;  // not booked yet
  std::size_t marks_ = 0;  // of the stopwatch
  bool keeps_ = true;
  WorkTimes times_;
  std::optional<Roofline> roofline_;
};

}  // namespace quest
