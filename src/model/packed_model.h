// PackedModel: a Llama that runs from the tensors of a packed file, where they lie.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/llama_model.h"
#include "model/model_file.h"

namespace quest {

/// How a packed file holds one matrix (docs/format.md).
struct StoredMatrix {
  std::string name;     ///< without ".weight"
  LinearScheme scheme;  ///< that the product runs under; the weight's bits are those in the file
  int bits;             ///< 1..8: `.codes` and `.scales`; 16, 32: `.weight` as BF16 or F32
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t block;  ///< Hadamard block of its rows

  std::string weight_name() const { return name + ".weight"; }
};

/// The embedding table.
StoredMatrix stored_embedding(const ModelDescription& description);
/// Every linear layer's parts in the order of the forward pass, then the head. A head that is the
/// embedding table has the table's name.
std::vector<StoredMatrix> stored_matrices(const ModelDescription& description);

/// The tensors of a packed file by name, and what to call it in errors.
struct PackedTensors {
  const std::map<std::string, Tensor>& tensors;
  std::string where;
};

class PackedModel : public LlamaModel<PackedLinear> {
 public:
  /// `file` must be memory of the host and outlive this, `backend` too. Throws Error when a tensor
  /// is missing or not wanted, has another type or shape than `description` says, or when a scale
  /// or a norm is not finite. `description.packed` is set.
  PackedModel(Backend& backend, const ModelDescription& description, const PackedTensors& file,
              DType compute);

 private:
  Arena memory_;  // what is derived from the file, or too small to leave there
};

}  // namespace quest
