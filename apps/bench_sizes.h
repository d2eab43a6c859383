// The sizes at which `quest bench kernels` measures.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/kernel_cases.h"

namespace quest::app {

struct KernelSizes {
  std::vector<ProductCase> products;  ///< of training and of prompts
  std::vector<ProductCase> decoding;  ///< products of few rows, whose weights are packed
  std::vector<RowCase> rows;          ///< of kernels that work row by row
  std::vector<AttentionShape> attention;
  RowCase logits;      ///< of cross-entropy
  RowCase parameters;  ///< of one call of the optimizer
};

/// Those of backend/kernel_cases.h, which the tests of kernels check.
KernelSizes tested_sizes();

/// The calls that a model of `width`, a multiple of 64, makes on `rows` tokens: the joined products
/// of its layers, with the published hidden width and heads of 128 values (64 where those do not
/// fit), and the same products where it decodes.
KernelSizes layer_sizes(std::int64_t width, std::int64_t rows);

}  // namespace quest::app
