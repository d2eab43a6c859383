// FloatKernels: the float kernels of one instruction set, as a table of functions.
//
// Included by the files that are compiled for one instruction set, so nothing but plain types may
// stand here: no standard containers and no inline functions. Functions work on one row or range of
// contiguous values on one thread; backend.h says what they compute.
#pragma once

#include <cstdint>

#include "backend/adamw_factors.h"

namespace quest {

enum class Isa : std::uint8_t;

/// Contiguous floats of a type known at run time.
struct Floats {
  void* data;
  bool is_bf16;
};

/// What is the same for all elements of an AdamW update.
struct AdamWUpdate : AdamWFactors {
  float grad_scale;
};

/// A row to be normalized, and one whose squares are taken beside it.
struct NormRow {
  const float* x;
  float rstd;
  const float* other;  ///< null for none
  float epsilon;
};

/// A row of a norm's gradient.
struct NormGradientRow {
  float* d_x;
  Floats rounded;
  Floats d_y;
  const float* x;
  float rstd;
};
/// One or two of them, of the same types.
struct NormGradientRows {
  NormGradientRow rows[2];
  int count;
  bool fetch;  ///< they and the rows after them come from farther than the second-level cache
};

/// Values of a chunk of a long row whose exponentials are relative to its largest value.
constexpr int kSoftmaxChunk = 2048;

/// A chunk of a row of a softmax, and what is done beside its exponentials: those of the row before
/// leave the same place, and the next chunk comes into the first-level cache.
struct SoftmaxChunk {
  const float* x;  ///< [count]
  std::int64_t count;
  float shift;
  float* exponentials;  ///< [count] of the row before, become exp(x - shift); null: only the sum
  const float* next;    ///< [next_count] the chunk that will follow
  std::int64_t next_count;
  Floats before;  ///< = factor * exponentials of the row before, unless its data is null
  float factor;
  bool past_caches;  ///< before is larger than caches: whole lines of it need not be read first,
                     ///< and a fence must follow
};
struct SoftmaxSums {
  float sum;           ///< of exp(x - shift)
  float next_largest;  ///< of the next chunk, -infinity for none; NaN is passed over
};

/// Values of a block of moments in 8 bits: backend.h's kMomentBlock.
constexpr int kMomentValues = 256;

/// A block of both moments in 8 bits, as backend.h says.
struct CodedMoments {
  std::int8_t* first;
  std::uint8_t* second;
  float* first_scale;   ///< one
  float* second_scale;  ///< one
};

struct FloatKernels {
  /// dst = src.
  void (*cast)(Floats dst, Floats src, std::int64_t count);
  /// dst += src.
  void (*add)(float* dst, const float* src, std::int64_t count);
  double (*sum)(const float* x, std::int64_t count);
  double (*sum_squares)(const float* x, std::int64_t count);
  /// The moments are of one type.
  void (*adamw)(float* parameter, Floats first, Floats second, const float* gradient,
                std::int64_t count, const AdamWUpdate* update);
  /// The same for one block of at most kMomentBlock values whose moments have 8 bits.
  void (*adamw_codes)(float* parameter, CodedMoments moments, const float* gradient,
                      std::int64_t count, const AdamWUpdate* update);

  /// 1 / sqrt(the mean square of x + epsilon). Asks for the row of `out`, unless its data is null.
  float (*inverse_rms)(const float* x, Floats out, float epsilon, std::int64_t count);
  /// y = x * rstd * weight; returns inverse_rms of the other row, or 0 where there is none.
  float (*normalize)(Floats y, const NormRow* row, const float* weight, std::int64_t count);
  /// d_x += ..., d_weight += ... of one row after the other; rounded = d_x, unless its data is
  /// null.
  void (*rmsnorm_backward)(const NormGradientRows* rows, float* d_weight, const float* weight,
                           std::int64_t count);
  /// Turns the pairs of `heads` heads of 2 * half values each; sin times `sign`.
  void (*rope)(Floats x, const float* cos, const float* sin, float sign, bool interleaved,
               std::int64_t half, std::int64_t heads);
  void (*swiglu)(Floats h, Floats gate, Floats up, std::int64_t count);
  void (*swiglu_backward)(Floats d_gate, Floats d_up, Floats d_h, Floats gate, Floats up,
                          std::int64_t count);

  /// The largest value; -infinity for none. NaN is passed over.
  float (*largest)(const float* x, std::int64_t count);
  /// out = exp(scale * x - shift), returns the sum; scale * x - shift must be at most 88. out may
  /// be x.
  float (*exponentials)(Floats out, const float* x, float scale, float shift, std::int64_t count);
  /// out = factor * x; out may be x.
  void (*scale)(Floats out, const float* x, float factor, std::int64_t count);
  /// x - shift must be at most 88.
  SoftmaxSums (*softmax_chunk)(const SoftmaxChunk* chunk);
  /// sum of a * b.
  float (*dot)(Floats a, Floats b, std::int64_t count);
  /// scores[j] = q . keys[j] for j < rows; keys lie `stride` elements apart.
  void (*scores)(float* scores, Floats q, Floats keys, std::int64_t stride, std::int64_t rows,
                 std::int64_t count);
  /// sums[i][j] = x[i] . rows[j] for i < x_rows <= 4 and j < count, sums `sums_stride` apart. Rows
  /// of weights are long and lie one after the other in memory; what a row of x gives does not
  /// depend on the others.
  void (*dot_rows)(float* sums, std::int64_t sums_stride, const float* x, std::int64_t x_rows,
                   Floats rows, std::int64_t stride, std::int64_t count, std::int64_t columns);
  /// totals += sum over j < rows of weights[j] * values[j].
  void (*add_weighted)(float* totals, const float* weights, Floats values, std::int64_t stride,
                       std::int64_t rows, std::int64_t count);
  /// As scores and add_weighted, with keys and values of 8 bits, whose scales are the caller's.
  void (*scores_of_codes)(float* scores, Floats q, const std::int8_t* keys, std::int64_t stride,
                          std::int64_t rows, std::int64_t count);
  void (*add_weighted_codes)(float* totals, const float* weights, const std::int8_t* values,
                             std::int64_t stride, std::int64_t rows, std::int64_t count);
  /// codes = the integers nearest to x / scale; returns scale = largest |x| / 127, NaN when x is
  /// not finite.
  float (*encode)(std::int8_t* codes, Floats x, std::int64_t count);
  /// out = scale * codes.
  void (*decode)(Floats out, const std::int8_t* codes, float scale, std::int64_t count);
  /// Of one row of attention scores: weights = p, d_scores = scale * p * (d_p - delta), where
  /// p = exp(scale * x - log_sum).
  void (*attention_gradient)(Floats weights, Floats d_scores, const float* x, const float* d_p,
                             float scale, float log_sum, float delta, std::int64_t count);
};

/// Those for `isa`; they may run only where available_isas() holds it.
const FloatKernels& float_kernels(Isa isa);

extern const FloatKernels kFloatKernelsGeneric;
extern const FloatKernels kFloatKernelsAvx2;
extern const FloatKernels kFloatKernelsAvx512;
/// The same bits from a CPU that converts to bf16 by itself.
extern const FloatKernels kFloatKernelsAvx512Bf16;

}  // namespace quest
