// Speed of packed models on random weights: passes over a prompt, and tokens one by one.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "backend/timing_backend.h"
#include "model/packed_model.h"

namespace quest::app {

/// The tensors of a packed file with random codes, so that no training has to come before.
class RandomPackedTensors {
 public:
  explicit RandomPackedTensors(const ModelDescription& description);
  PackedTensors view() const { return {tensors_, "random weights"}; }
  /// Bytes that a token of decoding reads: all matrices but the embedding table, whose one row is
  /// nothing beside them.
  double decode_bytes() const { return decode_bytes_; }

 private:
  Tensor add(const std::string& name, const Shape& shape, DType dtype);

  std::deque<std::vector<std::uint64_t>> memory_;
  std::map<std::string, Tensor> tensors_;
  double decode_bytes_ = 0;
};

/// Seconds of each repetition.
struct InferenceTimes {
  std::vector<double> prefill;          ///< of `prefill_tokens` in one pass
  std::vector<double> decode;           ///< of `decode_tokens`, one by one, from an empty context
  std::vector<double> prefill_product;  ///< of this, products
  std::vector<double> decode_product;
};

InferenceTimes time_inference(TimingBackend& backend, const PackedModel& model,
                              std::int64_t prefill_tokens, std::int64_t decode_tokens,
                              std::int64_t repetitions);

double median(std::vector<double> values);

}  // namespace quest::app
