// CpuBackend: quantization of rows and its gradient, rows spread over threads.
#include <cassert>
#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/rows/float_rows.h"

namespace quest {
namespace {

RowRule make_rule(const RowQuantizer& quantizer, std::int64_t columns) {
  RowRule rule{};
  rule.columns = columns;
  rule.block = quantizer.block;
  rule.alpha = quantizer.grid.alpha;
  rule.epsilon = kScaleEpsilon;
  rule.kappa = quantizer.kappa;
  rule.min_code = quantizer.grid.min_code();
  rule.max_code = quantizer.grid.max_code();
  rule.mask = quantizer.estimator == Estimator::kTrust  ? RowRule::kTrust
              : quantizer.estimator == Estimator::kClip ? RowRule::kClip
                                                        : RowRule::kAll;
  return rule;
}

FloatRow float_row(Tensor x, std::int64_t r) {
  if (x.dtype == DType::kBF16) return {x.row<BFloat16>(r), true};
  return {x.row<float>(r), false};
}

const std::uint8_t* mask_row(Tensor mask, std::int64_t r) {
  return mask ? mask.row<std::uint8_t>(r) : nullptr;
}

/// Scratch rows for `threads` threads.
class ScratchRows {
 public:
  ScratchRows(Workspace& workspace, int threads, std::int64_t columns)
      : stride_(scratch_columns(columns)),
        rows_(workspace.tensor(Workspace::Slot::kRows, {threads, stride_}, DType::kF32)) {}
  float* row(int thread) const { return rows_.as<float>() + thread * stride_; }

 private:
  std::int64_t stride_;
  Tensor rows_;
};

}  // namespace

template <typename RowSource>
void CpuBackend::quantize_each_row(const QuantizedRows& rows, const RowQuantizer& quantizer,
                                   const RowSource& source) {
  const std::int64_t columns = rows.codes.cols();
  const QuantKernels& kernels = quant_kernels(isa_);
  const RowRule rule = make_rule(quantizer, columns);
  const ScratchRows scratch(workspace_, 2 * threads_, columns);
  // A row's codes are made once the next row is rotated, and its scale once the codes before are
  // made: roots and divisions, each of which waits for the one before, then have other work beside
  // them.
  const auto row_codes = [&](std::int64_t r, int thread) {
    RowCodes to{};
    to.codes = rows.codes.row<std::int8_t>(r);
    to.mask = rows.mask ? rows.mask.row<std::uint8_t>(r) : nullptr;
    to.step = rows.steps.as<float>() + r;
    to.code_sum = rows.code_sums.as<std::int32_t>() + r;
    to.rotated = scratch.row(2 * thread + static_cast<int>(r % 2));
    return to;
  };
  const RowKernels& row_kernels = kernels.rows;
  parallel_for(threads_, rows.codes.rows(), quantize_grain(columns),
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 row_kernels.begin();
                 RowCodes to{};
                 CodeScale scale{};
                 for (std::int64_t r = begin; r < end; ++r) {
                   const RowCodes next = row_codes(r, thread);
                   const Rotated rotated =
                       row_kernels.rotate_for_codes(next, source(r, thread), rule);
                   if (r > begin) row_kernels.codes_of_rotated(to, rule, scale);
                   scale = row_kernels.code_scale(next, rule, rotated);
                   to = next;
                 }
                 row_kernels.codes_of_rotated(to, rule, scale);
                 row_kernels.end();
               });
}

void CpuBackend::quantize_rows(const QuantizedRows& rows, Tensor x, const RowQuantizer& quantizer) {
  assert(rows.codes.cols() == x.cols() && rows.codes.rows() == x.rows());
  quantize_each_row(rows, quantizer, [&](std::int64_t r, int) { return float_row(x, r); });
}

// A fused kernel quantizes a row while the first-level cache holds it: each thread writes all its
// rows to one row of the scratch.

void CpuBackend::rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x,
                                  Tensor weight, float epsilon, const RowQuantizer& quantizer) {
  quantize_each_row(rows, quantizer, [&](std::int64_t r, int thread) {
    const float inverse = float_kernels_.inverse_rms(x.row<float>(r), {}, epsilon, x.cols());
    rstd.as<float>()[r] = inverse;
    const NormRow row{x.row<float>(r), inverse, nullptr, epsilon};
    float_kernels_.normalize(row_of(y, thread), &row, weight.as<float>(), x.cols());
    return float_row(y, thread);
  });
}

void CpuBackend::swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                                 const RowQuantizer& quantizer) {
  quantize_each_row(rows, quantizer, [&](std::int64_t r, int thread) {
    float_kernels_.swiglu(row_of(h, thread), row_of(gate, r), row_of(up, r), h.cols());
    return float_row(h, thread);
  });
}

void CpuBackend::quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                                        Write write) {
  const QuantKernels& kernels = quant_kernels(isa_);
  const ScratchRows scratch(workspace_, threads_, d_z.cols());
  parallel_for(
      threads_, d_z.rows(), quantize_grain(d_z.cols()),
      [&](std::int64_t begin, std::int64_t end, int thread) {
        kernels.rows.begin();
        for (std::int64_t r = begin; r < end; ++r) {
          const RotatedRow to{float_row(d_x, r), write == Write::kAdd, scratch.row(thread)};
          kernels.rows.rotate_row(to, float_row(d_z, r), mask_row(mask, r), d_z.cols(), block);
        }
        kernels.rows.end();
      });
}

void CpuBackend::dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) {
  const QuantKernels& kernels = quant_kernels(isa_);
  const ScratchRows scratch(workspace_, threads_, out.cols());
  parallel_for(threads_, out.rows(), quantize_grain(out.cols()),
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 for (std::int64_t r = begin; r < end; ++r) {
                   const RotatedRow to{float_row(out, r), false, scratch.row(thread)};
                   kernels.dequantize_row(to, rows.codes.row<std::int8_t>(r),
                                          rows.steps.as<float>()[r], out.cols(), block);
                 }
               });
}

void CpuBackend::quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                                    const RowQuantizer& quantizer) {
  const QuantKernels& kernels = quant_kernels(isa_);
  const std::int64_t columns = x.cols();
  const std::int64_t stride = scratch_columns(columns);
  // A part's scratch: the rotated row, and room for rotate_row's own.
  const Tensor scratch =
      workspace_.tensor(Workspace::Slot::kRows, {threads_, 2 * stride}, DType::kF32);
  // Sums of each row, added up in the order of the rows below.
  const Tensor row_sums = workspace_.tensor(Workspace::Slot::kOperandA, {x.rows(), 3}, DType::kF64);
  parallel_for(threads_, x.rows(), quantize_grain(columns),
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 float* const z = scratch.as<float>() + 2 * stride * thread;
                 for (std::int64_t r = begin; r < end; ++r) {
                   kernels.rotate_row({{z, false}, false, z + stride}, float_row(x, r), nullptr,
                                      columns, quantizer.block);
                   const std::int8_t* const codes = rows.codes.row<std::int8_t>(r);
                   const std::uint8_t* const mask = mask_row(rows.mask, r);
                   const double step = rows.steps.as<float>()[r];
                   double* const row = row_sums.row<double>(r);
                   row[0] = row[1] = row[2] = 0.0;
                   for (std::int64_t k = 0; k < columns; ++k) {
                     const double value = z[k];
                     const double error = (codes[k] + 0.5) * step - value;
                     if (mask != nullptr && ((mask[k / 8] >> (k % 8)) & 1) == 0) row[0] += 1.0;
                     row[1] += error * error;
                     row[2] += value * value;
                   }
                 }
               });
  double* const total = sums.as<double>();
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    for (int i = 0; i < 3; ++i) total[i] += row_sums.row<double>(r)[i];
  }
}

}  // namespace quest
