// Model: a Llama together with the memory it lives in.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"
#include "model/llama_model.h"

namespace quest {

/// Bytes of a model by what they are for.
struct ModelBytes {
  std::size_t parameters = 0;
  std::size_t gradients = 0;
  std::size_t prepared = 0;

  std::size_t total() const { return parameters + gradients + prepared; }
};

/// Owns a model's arenas on one backend, which must outlive it. Weights are zeros until
/// `initialize` or a loader sets them; `prepare` must follow either.
class Model : public LlamaModel<QuantLinear> {
 public:
  /// Throws Error when the shape is invalid, an override of the scheme matches no layer, or memory
  /// is short.
  Model(Backend& backend, const ModelConfig& config, const Scheme& scheme, DType compute,
        bool trains);

  /// Counts without allocating.
  static ModelBytes measure(const ModelConfig& config, const Scheme& scheme, DType compute,
                            bool trains);
  static std::size_t measure_activations(const ModelConfig& config, const Scheme& scheme,
                                         DType compute, const PassShape& shape);

  /// Normal weights of method section 4: a function of the seed and the parameter's place only.
  void initialize(std::uint64_t seed);
  /// Quantizes or casts the weights for the next passes.
  void prepare() { llama_->prepare_weights(*backend_); }

  const ModelArenas& arenas() const { return arenas_; }

 private:
  ModelArenas arenas_;
};

}  // namespace quest
