// CpuBackend: embedding, norm, rotary embedding, SwiGLU, cross-entropy.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/rows/float_rows.h"
#include "backend/host_memory.h"

namespace quest {
namespace {

// Rows whose contributions to a norm's weight gradient are added up in f32 before double takes
// over; fixed, so that the result does not depend on the number of threads.
constexpr std::int64_t kNormBlock = 32;

// Columns that a thread takes alone: whole cache lines.
constexpr std::int64_t kColumnBlock = 64;

// The squares of a row are taken beside the outputs of the row but one before: its root and
// divisions, 70 cycles in which each waits for the one before, then have a row's work beside them,
// and the second level's reading has arithmetic. Not so for rows of more columns, of which the
// first-level cache does not hold three.
constexpr std::int64_t kRowsBesideColumns = 2048;

// Bytes of an output of which little is in a cache when it is read again.
constexpr std::size_t kLargeOutput = std::size_t{16} << 20;

// Bytes of one of several operands that the second-level cache may hold together.
constexpr std::size_t kNearBytes = std::size_t{512} << 10;

/// Softmaxes of rows of logits one after the other, on one thread: the gradient of a row is written
/// beside the exponentials of the next, so that arithmetic, reading and writing overlap.
class SoftmaxRows {
 public:
  struct Sum {
    float largest;
    double denominator;  ///< sum of exp(logit - largest)
  };

  /// `exponentials` f32 [count] is scratch; null where no gradient is wanted.
  SoftmaxRows(const FloatKernels& kernels, float* exponentials, std::int64_t count,
              bool past_caches)
      : kernels_(kernels), exponentials_(exponentials), count_(count), past_caches_(past_caches) {}
  SoftmaxRows(const SoftmaxRows&) = delete;
  SoftmaxRows& operator=(const SoftmaxRows&) = delete;

  /// Sums of `row`; `next` will be the next one, null for none. Over whole rows instead of chunks,
  /// the largest logit and the exponentials would wait for memory in turn.
  Sum take(const float* row, const float* next) {
    // Stands for minus infinity, which has no difference to itself.
    constexpr float kLowest = std::numeric_limits<float>::lowest();
    if (row != expected_) next_largest_ = kernels_.largest(row, values_from(0));
    Sum sum{kLowest, 0.0};
    shifts_.clear();
    for (std::int64_t first = 0; first < count_; first += kSoftmaxChunk) {
      const float largest = next_largest_;
      shifts_.push_back(std::max(largest, kLowest));
      SoftmaxChunk chunk{};
      chunk.x = row + first;
      chunk.count = values_from(first);
      chunk.shift = shifts_.back();
      const bool last = first + chunk.count == count_;
      chunk.next = last ? next : chunk.x + chunk.count;
      chunk.next_count = chunk.next == nullptr ? 0 : values_from(last ? 0 : first + chunk.count);
      if (exponentials_ != nullptr) chunk.exponentials = exponentials_ + first;
      chunk.past_caches = past_caches_;
      if (gradient_.data != nullptr) {
        chunk.before = gradient_from(first);
        chunk.factor = factors_[shifts_.size() - 1];
      }
      const auto [chunk_sum, next_largest] = kernels_.softmax_chunk(&chunk);
      next_largest_ = next_largest;
      if (largest > sum.largest) {
        sum.denominator *= std::exp(double{sum.largest} - largest);
        sum.largest = largest;
      }
      sum.denominator += double{chunk_sum} * std::exp(double{shifts_.back()} - sum.largest);
    }
    expected_ = next;
    set_target();
    return sum;
  }

  /// Of the row taken last: gradient [count] = scale * (softmax - onehot), set when the next row is
  /// taken or by finish().
  void leave(Floats gradient, double scale, const Sum& sum, std::int64_t target,
             float target_logit) {
    gradient_ = gradient;
    factors_.clear();
    for (const float shift : shifts_) {
      const double factor = scale * std::exp(double{shift} - sum.largest) / sum.denominator;
      factors_.push_back(static_cast<float>(factor));
    }
    // Set anew, because probability - 1 from a rounded probability would lose digits.
    const double probability = std::exp(double{target_logit} - sum.largest) / sum.denominator;
    at_target_ = static_cast<float>(scale * (probability - 1.0));
    target_ = target;
  }

  void finish() {
    if (gradient_.data == nullptr) return;
    for (std::int64_t first = 0; first < count_; first += kSoftmaxChunk) {
      kernels_.scale(gradient_from(first), exponentials_ + first,
                     factors_[static_cast<std::size_t>(first / kSoftmaxChunk)], values_from(first));
    }
    set_target();
    // Stores past the caches come before what follows by a fence alone, which costs a tenth of the
    // time after each chunk.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }

 private:
  std::int64_t values_from(std::int64_t first) const {
    return std::min<std::int64_t>(kSoftmaxChunk, count_ - first);
  }
  Floats gradient_from(std::int64_t first) const {
    return {static_cast<char*>(gradient_.data) + first * (gradient_.is_bf16 ? 2 : 4),
            gradient_.is_bf16};
  }
  void set_target() {
    if (gradient_.data == nullptr) return;
    kernels_.cast(gradient_from(target_), {&at_target_, false}, 1);
    gradient_.data = nullptr;
  }

  const FloatKernels& kernels_;
  float* const exponentials_;
  const std::int64_t count_;
  const bool past_caches_;
  const float* expected_ = nullptr;  ///< the row whose first chunk has next_largest_
  float next_largest_ = 0.0f;
  std::vector<float> shifts_;  ///< of the chunks of the row taken last
  Floats gradient_{};          ///< to be written; null for none
  std::vector<float> factors_;
  std::int64_t target_ = 0;
  float at_target_ = 0.0f;
};

/// x [cols] += the rows of `sums` in double, one after the other; columns in groups that stay in
/// the first-level cache.
void add_blocks(float* x, Tensor sums) {
  for (std::int64_t first = 0; first < sums.cols(); first += kColumnBlock) {
    const std::int64_t count = std::min(kColumnBlock, sums.cols() - first);
    double totals[kColumnBlock];
    std::copy_n(x + first, count, totals);
    for (std::int64_t block = 0; block < sums.rows(); ++block) {
      const float* const row = sums.row<float>(block) + first;
      for (std::int64_t c = 0; c < count; ++c) totals[c] += double{row[c]};
    }
    for (std::int64_t c = 0; c < count; ++c) x[first + c] = static_cast<float>(totals[c]);
  }
}

}  // namespace

void CpuBackend::embedding(Tensor x, Tensor tokens, Tensor table) {
  const std::int32_t* const token = tokens.as<std::int32_t>();
  for_each_row(threads_, x.rows(), x.cols(), [&](std::int64_t r) {
    float_kernels_.cast(row_of(x, r), row_of(table, token[r]), x.cols());
  });
}

void CpuBackend::embedding_backward(Tensor d_table, Tensor d_x, Tensor tokens) {
  // Threads share out columns, so that equal tokens meet in the order of rows.
  const std::int32_t* const token = tokens.as<std::int32_t>();
  const std::int64_t blocks = (d_x.cols() + kColumnBlock - 1) / kColumnBlock;
  const std::int64_t grain = row_grain(d_x.rows() * kColumnBlock);
  parallel_for(threads_, blocks, grain, [&](std::int64_t begin, std::int64_t end, int) {
    const std::int64_t first = begin * kColumnBlock;
    const std::int64_t count = std::min(end * kColumnBlock, d_x.cols()) - first;
    for (std::int64_t r = 0; r < d_x.rows(); ++r) {
      float_kernels_.add(d_table.row<float>(token[r]) + first, d_x.row<float>(r) + first, count);
    }
  });
}

void CpuBackend::rmsnorm(Tensor y, Tensor rstd, Tensor x, Tensor weight, float epsilon) {
  const FloatKernels& kernels = float_kernels_;
  float* const inverses = rstd.as<float>();
  parallel_for(
      threads_, x.rows(), row_grain(x.cols()), [&](std::int64_t begin, std::int64_t end, int) {
        const bool beside = x.cols() <= kRowsBesideColumns;
        const auto inverse_rms = [&](std::int64_t r) {
          const Floats out = beside ? Floats{} : row_of(y, r);
          return kernels.inverse_rms(x.row<float>(r), out, epsilon, x.cols());
        };
        if (beside) {
          inverses[begin] = inverse_rms(begin);
          if (begin + 1 < end) inverses[begin + 1] = inverse_rms(begin + 1);
        }
        for (std::int64_t r = begin; r < end; ++r) {
          if (!beside) inverses[r] = inverse_rms(r);
          const bool other = beside && r + 2 < end;
          const NormRow row{x.row<float>(r), inverses[r], other ? x.row<float>(r + 2) : nullptr,
                            epsilon};
          const float inverse = kernels.normalize(row_of(y, r), &row, weight.as<float>(), x.cols());
          if (other) inverses[r + 2] = inverse;
        }
      });
}

void CpuBackend::rmsnorm_backward(Tensor d_x, Tensor rounded, Tensor d_weight, Tensor d_y, Tensor x,
                                  Tensor weight, Tensor rstd) {
  const std::int64_t cols = x.cols();
  const std::int64_t blocks = (x.rows() + kNormBlock - 1) / kNormBlock;
  const Tensor sums = workspace_.tensor(Workspace::Slot::kSums, {blocks, cols}, DType::kF32);
  parallel_for(threads_, blocks, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t block = begin; block < end; ++block) {
      float* const block_sums = sums.row<float>(block);
      std::fill(block_sums, block_sums + cols, 0.0f);
      const std::int64_t last = std::min((block + 1) * kNormBlock, x.rows());
      for (std::int64_t r = block * kNormBlock; r < last; r += 2) {
        NormGradientRows rows{};
        rows.count = r + 1 < last ? 2 : 1;
        rows.fetch = x.bytes() > kNearBytes;
        for (int i = 0; i < rows.count; ++i) {
          rows.rows[i] = {d_x.row<float>(r + i), rounded ? row_of(rounded, r + i) : Floats{},
                          row_of(d_y, r + i), x.row<float>(r + i), rstd.as<float>()[r + i]};
        }
        float_kernels_.rmsnorm_backward(&rows, block_sums, weight.as<float>(), cols);
      }
    }
  });
  add_blocks(d_weight.as<float>(), sums);
}

void CpuBackend::rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                      std::int64_t first_position, std::int64_t length, bool inverse) {
  const std::int64_t half = cos.cols();
  for_each_row(threads_, x.rows(), x.cols(), [&](std::int64_t r) {
    const std::int64_t position = first_position + r % length;
    float_kernels_.rope(row_of(x, r), cos.row<float>(position), sin.row<float>(position),
                        inverse ? -1.0f : 1.0f, layout == RopeLayout::kInterleaved, half,
                        x.cols() / (2 * half));
  });
}

void CpuBackend::swiglu(Tensor h, Tensor gate, Tensor up) {
  for_each_row(threads_, h.rows(), h.cols(), [&](std::int64_t r) {
    float_kernels_.swiglu(row_of(h, r), row_of(gate, r), row_of(up, r), h.cols());
  });
}

void CpuBackend::swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate, Tensor up) {
  for_each_row(threads_, d_h.rows(), d_h.cols(), [&](std::int64_t r) {
    float_kernels_.swiglu_backward(row_of(d_gate, r), row_of(d_up, r), row_of(d_h, r),
                                   row_of(gate, r), row_of(up, r), d_h.cols());
  });
}

void CpuBackend::cross_entropy(Tensor losses, Tensor correct, Tensor d_logits, Tensor logits,
                               Tensor targets, float scale) {
  const std::int64_t vocab = logits.cols();
  const std::int32_t* const target = targets.as<std::int32_t>();
  // A row's exponentials, computed once, wait in a cache for their sum.
  const Tensor buffers =
      d_logits ? workspace_.tensor(Workspace::Slot::kRows, {threads_, vocab}, DType::kF32)
               : Tensor();
  // Where the gradient takes the place of the logits, a cache has its lines already.
  const bool large = d_logits && d_logits.bytes() > kLargeOutput && d_logits.data != logits.data;
  parallel_for(threads_, logits.rows(), row_grain(vocab),
               [&](std::int64_t begin, std::int64_t end, int part) {
                 const auto counted_from = [&](std::int64_t r) {
                   while (r < end && target[r] < 0) ++r;
                   return r;
                 };
                 SoftmaxRows softmax(float_kernels_, buffers ? buffers.row<float>(part) : nullptr,
                                     vocab, large);
                 std::int64_t counted = counted_from(begin);
                 for (std::int64_t r = begin; r < end; ++r) {
                   float& loss = losses.as<float>()[r];
                   std::uint8_t& is_correct = correct.as<std::uint8_t>()[r];
                   if (r < counted) {
                     loss = 0.0f;
                     is_correct = 0;
                     if (d_logits) zero_host(d_logits.rows_slice(r, r + 1));
                     continue;
                   }
                   counted = counted_from(r + 1);
                   const float* const row = logits.row<float>(r);
                   const float target_logit = row[target[r]];
                   const SoftmaxRows::Sum sum =
                       softmax.take(row, counted < end ? logits.row<float>(counted) : nullptr);
                   loss =
                       static_cast<float>(std::log(sum.denominator) + sum.largest - target_logit);
                   is_correct = target_logit == sum.largest &&
                                        float_kernels_.largest(row, target[r]) < sum.largest
                                    ? 1
                                    : 0;
                   if (d_logits)
                     softmax.leave(row_of(d_logits, r), scale, sum, target[r], target_logit);
                 }
                 softmax.finish();
               });
}

}  // namespace quest
