// CpuBackend: embedding, norm, rotary embedding, SwiGLU, cross-entropy.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/float_rows.h"
#include "backend/host_memory.h"

namespace quest {
namespace {

// Rows whose contributions to a norm's weight gradient are added up in f32 before double takes
// over; fixed, so that the result does not depend on the number of threads.
constexpr std::int64_t kNormBlock = 32;

// Columns that a thread takes alone: whole cache lines.
constexpr std::int64_t kColumnBlock = 64;

// A row is normalized once the squares of the next are taken: its root and division, which wait for
// one another, then have other work beside them. Not so for rows of more columns, two of which
// leave no room for outputs in the first-level cache.
constexpr std::int64_t kRowsBesideColumns = 2048;

// Bytes of an output of which little is in a cache when it is read again.
constexpr std::size_t kLargeOutput = std::size_t{16} << 20;

struct RowSum {
  float largest;
  double denominator;  // sum of exp(logit - largest)
};

// `out` = exponentials relative to `shifts`, one for each chunk; a null `out` is not set. Over a
// whole row instead of chunks, the largest logit and the exponentials would wait for memory in
// turn.
RowSum sum_row(const FloatKernels& kernels, float* out, std::vector<float>& shifts,
               const float* logits, std::int64_t count) {
  // Stands for minus infinity, which has no difference to itself.
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  RowSum row{kLowest, 0.0};
  shifts.clear();
  for (std::int64_t first = 0; first < count; first += kSoftmaxChunk) {
    const std::int64_t values = std::min<std::int64_t>(kSoftmaxChunk, count - first);
    const float largest = kernels.largest(logits + first, values);
    shifts.push_back(std::max(largest, kLowest));
    const Floats to{out == nullptr ? nullptr : out + first, false};
    const double sum =
        double{kernels.exponentials(to, logits + first, 1.0f, shifts.back(), values)};
    if (largest > row.largest) {
      row.denominator *= std::exp(double{row.largest} - largest);
      row.largest = largest;
    }
    row.denominator += sum * std::exp(double{shifts.back()} - row.largest);
  }
  return row;
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
        const auto inverse_rms = [&](std::int64_t r) {
          return kernels.inverse_rms(x.row<float>(r), epsilon, x.cols());
        };
        const bool beside = x.cols() <= kRowsBesideColumns;
        float next = beside ? inverse_rms(begin) : 0.0f;
        for (std::int64_t r = begin; r < end; ++r) {
          const float inverse = beside ? next : inverse_rms(r);
          if (beside && r + 1 < end) next = inverse_rms(r + 1);
          inverses[r] = inverse;
          kernels.normalize(row_of(y, r), x.row<float>(r), weight.as<float>(), inverse, x.cols());
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
      for (std::int64_t r = block * kNormBlock; r < last; ++r) {
        const Floats rounded_row = rounded ? row_of(rounded, r) : Floats{};
        float_kernels_.rmsnorm_backward(d_x.row<float>(r), rounded_row, block_sums, row_of(d_y, r),
                                        x.row<float>(r), weight.as<float>(), rstd.as<float>()[r],
                                        cols);
      }
    }
  });
  for (std::int64_t c = 0; c < cols; ++c) {
    double total = d_weight.as<float>()[c];
    for (std::int64_t block = 0; block < blocks; ++block) total += sums.row<float>(block)[c];
    d_weight.as<float>()[c] = static_cast<float>(total);
  }
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
  const FloatKernels& kernels = float_kernels_;
  const std::int64_t vocab = logits.cols();
  // A row's exponentials, computed once, wait in a cache for their sum.
  const Tensor buffers =
      d_logits ? workspace_.tensor(Workspace::Slot::kRows, {threads_, vocab}, DType::kF32)
               : Tensor();
  // Where the gradient takes the place of the logits, a cache has its lines already.
  const bool large = d_logits && d_logits.bytes() > kLargeOutput && d_logits.data != logits.data;
  const auto write = large ? kernels.scale_past_caches : kernels.scale;
  const auto work = [&](std::int64_t r, Floats exponentials, std::vector<float>& shifts) {
    const float* const row = logits.row<float>(r);
    const std::int32_t target = targets.as<std::int32_t>()[r];
    float& loss = losses.as<float>()[r];
    std::uint8_t& is_correct = correct.as<std::uint8_t>()[r];
    if (target < 0) {
      loss = 0.0f;
      is_correct = 0;
      if (d_logits) zero_host(d_logits.rows_slice(r, r + 1));
      return;
    }
    float* const out = static_cast<float*>(exponentials.data);
    const auto [largest, denominator] = sum_row(kernels, out, shifts, row, vocab);
    const double target_logit = row[target];
    loss = static_cast<float>(std::log(denominator) + largest - target_logit);
    is_correct = row[target] == largest && kernels.largest(row, target) < largest ? 1 : 0;
    if (!d_logits) return;
    for (std::size_t chunk = 0; chunk < shifts.size(); ++chunk) {
      const auto first = static_cast<std::int64_t>(chunk) * kSoftmaxChunk;
      const double factor = scale * std::exp(double{shifts[chunk]} - largest) / denominator;
      write(row_of(d_logits, r, first), out + first, static_cast<float>(factor),
            std::min<std::int64_t>(kSoftmaxChunk, vocab - first));
    }
    // Set anew, because probability - 1 from a rounded probability would lose digits.
    const double probability = std::exp(target_logit - largest) / denominator;
    const float at_target = static_cast<float>(scale * (probability - 1.0));
    const float* const source = &at_target;
    kernels.cast(row_of(d_logits, r, target), {const_cast<float*>(source), false}, 1);
  };
  parallel_for(threads_, logits.rows(), row_grain(vocab),
               [&](std::int64_t begin, std::int64_t end, int part) {
                 const Floats exponentials = buffers ? row_of(buffers, part) : Floats{};
                 std::vector<float> shifts;
                 for (std::int64_t r = begin; r < end; ++r) work(r, exponentials, shifts);
               });
}

}  // namespace quest
