// Evaluation: the loss of a model on held-out windows, computed exactly as in training.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "model/runnable_model.h"

namespace quest {

/// Sums over all predicted tokens.
struct Evaluation {
  double loss_sum = 0.0;     ///< nats
  std::int64_t correct = 0;  ///< the target had the largest logit
  std::int64_t tokens = 0;
  std::int64_t text_bytes = 0;  ///< that the targets stand for

  double loss() const { return loss_sum / static_cast<double>(tokens); }  ///< nats a token
  double perplexity() const;
  double accuracy() const { return static_cast<double>(correct) / static_cast<double>(tokens); }
  double bits_per_byte() const;
};

/// Where evaluation windows come from: `load(index, batch)` for index in [0, batches).
struct EvalSource {
  std::int64_t batches;
  std::function<void(std::int64_t index, Batch& batch)> load;

  static EvalSource windows(const EvalWindows& windows);
  static EvalSource order(const BatchOrder& order, const TokenDataset& data, std::int64_t seq_len);
};

/// Runs the model (weights ready) over all batches in passes of `a`'s shape; batches may have
/// any number of rows of `a.shape.length` tokens. Throws NonFiniteError when a loss is NaN or
/// infinite. Attention reads keys and values as the pass computed them or, with `kept`, as a cache
/// of that type keeps them.
Evaluation evaluate(const RunnableModel& model, Activations& a, const EvalSource& source,
                    const Tokenizer& tokenizer, std::optional<DType> kept = std::nullopt);

}  // namespace quest
