// What launches of the quantization kernels share: the rule of a row, and the number of vectors and
// threads that suit it.
#pragma once

#include <cmath>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/quantize_kernels.cuh"

namespace quest::cuda {

inline RowRule rule_of(const RowQuantizer& quantizer, std::int64_t columns) {
  if (quantizer.block > kHadamardBlock && columns > kKeptColumns) {
    fail("CUDA: rows of {} values cannot be rotated in blocks of {}", columns, quantizer.block);
  }
  return {quantizer.grid.alpha,
          quantizer.kappa,
          double{kScaleEpsilon},
          static_cast<int>(quantizer.estimator),
          quantizer.grid.min_code(),
          quantizer.grid.max_code(),
          columns,
          quantizer.block};
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

// 16 threads a group of up to 128 values.
inline int vectors_of(const RowRule& rule) {
  const std::int64_t vectors = rule.block / kLanes;
  return static_cast<int>(vectors < 1 ? 1 : vectors > 8 ? 8 : vectors);
}
inline unsigned threads_of(const RowRule& rule) {
  const unsigned groups = blocks_of(rule.columns, vectors_of(rule) * kLanes);
  const unsigned threads = (groups * unsigned{kLanes} + 31) / 32 * 32;
  return threads < 256 ? threads : 256;
}

// run(std::integral_constant<int, vectors>) for the rule's number of vectors.
template <typename Run>
void with_vectors(const RowRule& rule, Run run) {
  switch (vectors_of(rule)) {
    case 1:
      return run(std::integral_constant<int, 1>());
    case 2:
      return run(std::integral_constant<int, 2>());
    case 4:
      return run(std::integral_constant<int, 4>());
    default:
      return run(std::integral_constant<int, 8>());
  }
}

template <typename Source>
void quantize(Launch how, const Source& source, const QuantizedRows& rows, const RowRule& rule) {
  if (how.threads == 0) how.threads = threads_of(rule);
  with_vectors(rule, [&](auto vectors) {
    launch(how, quantize_rows_kernel<vectors(), Source>, source, codes_of(rows), rule);
  });
}

template <typename Source>
void rotate(Launch how, const Source& source, Tensor out, const RowRule& rule, Write write) {
  how.threads = threads_of(rule);
  with_vectors(rule, [&](auto vectors) {
    launch(how, rotate_rows_kernel<vectors(), Source>, source, rows_of(out), rule,
           block_scale(rule.block), write == Write::kAdd);
  });
}

inline dim3 block_a_row(std::int64_t rows) { return dim3(static_cast<unsigned>(rows)); }

}  // namespace quest::cuda
