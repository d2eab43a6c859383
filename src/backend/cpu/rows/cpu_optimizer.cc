// CpuBackend: sums over parameters and the AdamW update.
#include <cmath>
#include <limits>
#include <span>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/rows/float_rows.h"

namespace quest {
namespace {

// Values of a partial sum; fixed, so that a sum does not depend on the number of threads.
constexpr std::int64_t kSumBlock = 1 << 15;

static_assert(kMomentValues == kMomentBlock);

}  // namespace

void CpuBackend::add_up(Tensor total, Tensor x, double (*kernel)(const float*, std::int64_t)) {
  const float* const values = x.as<float>();
  const std::int64_t blocks = (x.numel() + kSumBlock - 1) / kSumBlock;
  double* const sums =
      workspace_.tensor(Workspace::Slot::kSums, {blocks}, DType::kF64).as<double>();
  parallel_for(threads_, blocks, 2, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      sums[i] = kernel(values + i * kSumBlock, std::min(kSumBlock, x.numel() - i * kSumBlock));
    }
  });
  double sum = 0.0;
  for (std::int64_t i = 0; i < blocks; ++i) sum += sums[i];
  *total.as<double>() += sum;
}

void CpuBackend::sum(Tensor total, Tensor x) { add_up(total, x, float_kernels_.sum); }

void CpuBackend::sum_squares(Tensor total, Tensor x) {
  add_up(total, x, float_kernels_.sum_squares);
}

void CpuBackend::clip_scale(Tensor scale, Tensor sums, float max_norm) {
  const std::span all(sums.as<double>(), static_cast<std::size_t>(sums.numel()));
  double factor = 1.0;
  if (max_norm > 0) factor = std::min(1.0, max_norm / (std::sqrt(all.back()) + 1e-6));
  for (const double sum : all) {
    if (!std::isfinite(sum)) factor = std::numeric_limits<double>::quiet_NaN();
  }
  *scale.as<float>() = static_cast<float>(factor);
}

void CpuBackend::adamw(Tensor parameter, const Moment& first, const Moment& second, Tensor gradient,
                       Tensor grad_scale, const AdamWStep& step) {
  const float scale = *grad_scale.as<float>();
  if (std::isnan(scale)) return;
  const AdamWUpdate update{adamw_factors(step), scale};
  float* const p = parameter.as<float>();
  const float* const g = gradient.as<float>();
  const std::int64_t count = parameter.numel();
  if (!first.scales) {
    const Tensor m = first.values.reshaped({1, count}), v = second.values.reshaped({1, count});
    parallel_for(threads_, count, row_grain(4), [&](std::int64_t begin, std::int64_t end, int) {
      float_kernels_.adamw(p + begin, row_of(m, 0, begin), row_of(v, 0, begin), g + begin,
                           end - begin, &update);
    });
    return;
  }
  const std::int64_t blocks = (count + kMomentBlock - 1) / kMomentBlock;
  parallel_for(threads_, blocks, row_grain(4 * kMomentBlock),
               [&](std::int64_t begin, std::int64_t end, int) {
                 for (std::int64_t b = begin; b < end; ++b) {
                   const std::int64_t at = b * kMomentBlock;
                   const CodedMoments moments = {
                       first.values.as<std::int8_t>() + at, second.values.as<std::uint8_t>() + at,
                       first.scales.as<float>() + b, second.scales.as<float>() + b};
                   float_kernels_.adamw_codes(p + at, moments, g + at,
                                              std::min(kMomentBlock, count - at), &update);
                 }
               });
}

}  // namespace quest
