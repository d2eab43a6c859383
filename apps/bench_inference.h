// Speed of packed models: passes over a prompt, tokens one by one, and sequences side by side.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "backend/timing_backend.h"
#include "model/packed_model.h"

namespace quest::app {

/// What is timed.
struct InferenceWork {
  std::int64_t prefill_tokens;
  std::int64_t decode_tokens;
  std::vector<std::int64_t> batches;  ///< sequences that decode side by side
  std::int64_t repetitions;
  /// Ways of reading the weights that a token of decoding reads and doing nothing else, each a
  /// function that does so once and returns its seconds; the fastest way counts.
  std::vector<std::function<double()>> read_weights;
};

/// Seconds of each repetition.
struct InferenceTimes {
  std::vector<double> prefill;          ///< of `prefill_tokens` in one pass
  std::vector<double> prefill_product;  ///< of this, products
  std::vector<double> decode;           ///< of `decode_tokens`, one by one, from an empty context
  /// Of a token's products and of reading its weights, in turns: a token, then a reading, so that
  /// both find the caches and the memory, which others may share, in one state. Medians.
  std::vector<double> token_product;
  std::vector<double> token_read;
  /// By the number of sequences: of `decode_tokens` passes, each a token of every sequence.
  std::map<std::int64_t, std::vector<double>> batch_decode;
};

InferenceTimes time_inference(TimingBackend& backend, const PackedModel& model,
                              const InferenceWork& work);

double median(std::vector<double> values);

}  // namespace quest::app
