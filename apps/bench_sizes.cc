// Sizes from the tests of kernels, or from a model's layers.
#include "apps/bench_sizes.h"

#include <algorithm>

#include "model/config.h"

namespace quest::app {
namespace {

constexpr std::int64_t kLogitRows = 512;
constexpr std::int64_t kVocab = 32000;
/// The length of sequences in training, as published.
constexpr std::int64_t kSequence = 512;

AttentionShape causal(std::int64_t batch, std::int64_t length, std::int64_t heads,
                      std::int64_t head_dim) {
  return {batch, length, length, length, heads, heads, head_dim};
}

}  // namespace

KernelSizes tested_sizes() {
  KernelSizes sizes;
  for (const ProductCase& size : kProductSpeedCases) {
    (size.m >= 128 ? sizes.products : sizes.decoding).push_back(size);
  }
  sizes.rows.assign(kRowSpeedCases.begin(), kRowSpeedCases.end());
  sizes.attention.assign(kAttentionSpeedCases.begin(), kAttentionSpeedCases.end());
  sizes.logits = {kLogitRows, kVocab};
  sizes.parameters = {8192, 1024};
  return sizes;
}

KernelSizes layer_sizes(std::int64_t width, std::int64_t rows) {
  const std::int64_t hidden = ModelConfig::published_hidden(width);
  const std::int64_t head_dim = width % 128 == 0 ? 128 : 64, heads = width / head_dim;
  const std::int64_t length = std::min(rows, kSequence);
  KernelSizes sizes;
  sizes.products = {{rows, 3 * width, width},
                    {rows, width, width},
                    {rows, 2 * hidden, width},
                    {rows, width, hidden}};
  for (const std::int64_t sequences : {16, 1}) {
    for (ProductCase size : sizes.products) {
      size.m = sequences;
      sizes.decoding.push_back(size);
    }
  }
  sizes.rows = {{rows, width}, {rows, hidden}};
  sizes.attention = {causal(rows / length, length, heads, head_dim)};
  if (length < rows) sizes.attention.push_back(causal(1, rows, heads, head_dim));
  sizes.logits = {std::min(rows, kLogitRows), kVocab};
  sizes.parameters = {hidden, width};
  return sizes;
}

}  // namespace quest::app
