// RunnableModel: what sessions and evaluations need of a model, however its weights are kept.
#pragma once

#include "model/activations.h"
#include "model/config.h"
#include "model/kv_cache.h"

namespace quest {

/// A model whose weights are ready. Every member is one call of Llama's; see there.
class RunnableModel {
 public:
  virtual ~RunnableModel() = default;

  virtual Backend& backend() const = 0;
  virtual const ModelConfig& config() const = 0;
  virtual const Scheme& scheme() const = 0;
  /// The type of high-precision operands, and of kept keys and values.
  virtual DType compute() const = 0;
  virtual Activations make_activations(Arena& arena, const PassShape& shape) const = 0;
  virtual void prepare_positions(std::int64_t positions) const = 0;
  virtual void forward(Tensor tokens, Activations& a, const KvCache& cache) const = 0;
  virtual Tensor logits(const Activations& a, std::int64_t begin, std::int64_t rows) const = 0;
  /// `a.losses` and `a.correct` of one batch, computed as in training where `cache` keeps nothing.
  virtual void losses(Activations& a, Tensor tokens, Tensor targets,
                      const KvCache& cache) const = 0;
};

}  // namespace quest
