// RandomPackedTensors: a packed model that nobody trained, for benchmarks and the self test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/packed_model.h"

namespace quest::app {

/// The tensors of a packed file with random codes, so that no training has to come before.
class RandomPackedTensors {
 public:
  explicit RandomPackedTensors(const ModelDescription& description);
  PackedTensors view() const { return {tensors_, "random weights"}; }
  /// What a token of decoding reads: the codes and scales of all matrices but the embedding table,
  /// whose one row is nothing beside them.
  const std::vector<std::span<const std::byte>>& decode_reads() const { return decode_reads_; }

 private:
  Tensor add(const std::string& name, const Shape& shape, DType dtype);
  void fill_with_bits(std::vector<std::uint64_t>& words);
  std::vector<Tensor> add_matrix(const StoredMatrix& stored);

  std::deque<std::vector<std::uint64_t>> memory_;
  // Of all matrices, one after the other as in a file, and in large pages, as files are cached.
  std::unique_ptr<void, std::function<void(void*)>> codes_;
  std::size_t code_bytes_ = 0;                 // of these, in use
  std::uint64_t state_ = 0x9e3779b97f4a7c15u;  // of the random bits
  std::map<std::string, Tensor> tensors_;
  std::vector<std::span<const std::byte>> decode_reads_;
};

}  // namespace quest::app
