// What launches of the quantization kernels share: the rule of a row, the number of threads that
// suits it, and whether sources of vectors do.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>
#include <variant>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/quantize_kernels.cuh"

namespace quest::cuda {

inline RowRule rule_of(const RowQuantizer& quantizer, std::int64_t columns) {
  if (quantizer.block > kHadamardBlock && columns > kKeptColumns) {
    fail("CUDA: rows of {} values cannot be rotated in blocks of {}", columns, quantizer.block);
  }
  if (columns > std::numeric_limits<int>::max() / 2) {
    fail("CUDA: rows of {} values cannot be rotated", columns);
  }
  const double levels = quantizer.grid.levels();
  const double scale = 1.0 / std::sqrt(static_cast<double>(quantizer.block));
  return {quantizer.grid.alpha,
          quantizer.kappa,
          double{kScaleEpsilon},
          levels / (levels - 1),
          1.0 / static_cast<double>(columns),
          2.0 / (levels - 1),
          scale,
          1.0 / scale,
          static_cast<int>(quantizer.estimator),
          quantizer.grid.min_code(),
          quantizer.grid.max_code(),
          static_cast<int>(columns),
          static_cast<int>(quantizer.block)};
}
inline RowRule rotation(std::int64_t columns, std::int64_t block) {
  RowQuantizer quantizer;
  quantizer.grid.bits = 1;
  quantizer.block = block;
  return rule_of(quantizer, columns);
}

inline float block_scale(std::int64_t block) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
}

inline CodesOut codes_of(const QuantizedRows& rows) {
  return {data_of<std::int8_t>(rows.codes),
          data_of<float>(rows.steps),
          data_of<std::int32_t>(rows.code_sums),
          data_of<std::uint8_t>(rows.mask),
          rows.codes.row_stride,
          rows.mask.row_stride};
}

/// Whether sources of vectors suit rows of this rule, of these tensors.
template <typename... Tensors>
bool suits_vectors(const RowRule& rule, const Tensors&... tensors) {
  return rule.block == kGroup && rule.columns % kGroup == 0 && rule.columns <= kMostColumns &&
         (rows_begin_at(tensors, 16) && ...);
}
/// run(source of vectors) for a source of type T whose tensors suit it; else false.
template <typename T, typename Run>
bool with_vectors_of(const RowSource& source, const RowRule& rule, const Run& run) {
  const auto rows = [](const Tensor& x) { return TypedRows<T>{data_of<T>(x), x.row_stride}; };
  if (const auto* norm = std::get_if<RowSource::Norm>(&source.made_of)) {
    if (!suits_vectors(rule, norm->x, norm->weight)) return false;
    return run(NormVectors<kIsBf16<T>>{{data_of<float>(norm->x), norm->x.row_stride},
                                       data_of<float>(norm->weight),
                                       data_of<float>(norm->rstd),
                                       norm->epsilon});
  }
  if (const auto* swiglu = std::get_if<RowSource::Swiglu>(&source.made_of)) {
    const DType type = source.x.dtype;
    const bool one_type = swiglu->gate.dtype == type && swiglu->up.dtype == type;
    if (!one_type || !suits_vectors(rule, swiglu->gate, swiglu->up)) return false;
    return run(SwigluVectors<T>{rows(swiglu->gate), rows(swiglu->up)});
  }
  return suits_vectors(rule, source.x) && run(PlainVectors<T>{rows(source.x)});
}
template <typename Run>
bool with_vectors(const RowSource& source, const RowRule& rule, const Run& run) {
  return source.x.dtype == DType::kBF16 ? with_vectors_of<std::uint16_t>(source, rule, run)
                                        : with_vectors_of<float>(source, rule, run);
}

template <typename Source, int kHeld = kWide>
unsigned threads_of(const RowRule& rule) {
  const unsigned threads = blocks_of(rule.columns, kWarp * kHeld) * kWarp;
  constexpr unsigned kMost = kRowThreads<Source, kHeld>;
  return threads < kMost ? threads : kMost;
}

/// Up to how many rows are few: more would use the device's multiprocessors more than once.
inline constexpr std::int64_t kFewRows = 64;

template <typename Source>
void quantize(Launch how, const Source& source, const QuantizedRows& rows, const RowRule& rule) {
  const auto run = [&]<int kHeld>(std::integral_constant<int, kHeld>) {
    how.threads = threads_of<Source, kHeld>(rule);
    launch(how, quantize_rows_kernel<Source, kHeld>, source, codes_of(rows), rule);
  };
  if constexpr (kWholeGroups<Source>) {
    if (rows.codes.rows() <= kFewRows && !rows.mask) {
      return run(std::integral_constant<int, kFewHeld<Source>>());
    }
  }
  run(std::integral_constant<int, kWide>());
}

template <typename Source>
void rotate(Launch how, const Source& source, Tensor out, const RowRule& rule, Write write) {
  how.threads = threads_of<Source>(rule);
  const float scale = block_scale(rule.block);
  const auto run = [&](const auto& rows) {
    launch(how, rotate_rows_kernel<Source, std::decay_t<decltype(rows)>>, source, rows, rule, scale,
           write == Write::kAdd);
  };
  if constexpr (kWholeGroups<Source>) {
    with_type(rows_of(out), run);
  } else {
    run(rows_of(out));
  }
}

inline dim3 block_a_row(std::int64_t rows) { return dim3(static_cast<unsigned>(rows)); }

}  // namespace quest::cuda
