// LlamaModel: a Llama on one backend as a RunnableModel; owners of weights derive from it.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "model/llama.h"
#include "model/runnable_model.h"

namespace quest {

template <typename Linear>
class LlamaModel : public RunnableModel {
 public:
  Backend& backend() const override { return *backend_; }
  const ModelConfig& config() const override { return llama_->config(); }
  const Scheme& scheme() const override { return llama_->scheme(); }
  DType compute() const override { return llama_->compute(); }
  Activations make_activations(Arena& arena, const PassShape& shape) const override {
    return llama_->make_activations(arena, shape);
  }
  void prepare_positions(std::int64_t positions) const override {
    llama_->prepare_positions(*backend_, positions);
  }
  void forward(Tensor tokens, Activations& a, const KvCache& cache) const override {
    llama_->forward(*backend_, tokens, a, cache);
  }
  Tensor logits(const Activations& a, std::int64_t begin, std::int64_t rows) const override {
    return llama_->logits(*backend_, a, begin, rows);
  }
  void losses(Activations& a, Tensor tokens, Tensor targets, const KvCache& cache) const override {
    llama_->losses(*backend_, a, tokens, targets, cache);
  }
  const Llama<Linear>& llama() const { return *llama_; }

 protected:
  /// `llama_` is the deriving constructor's to set. The backend must outlive this.
  explicit LlamaModel(Backend& backend) : backend_(&backend) {}

  Backend* backend_;
  std::unique_ptr<Llama<Linear>> llama_;
};

}  // namespace quest
