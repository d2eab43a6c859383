// RunData: what a training run reads, opened and checked before anything is written.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "apps/settings.h"
#include "data/loader.h"
#include "data/shards.h"
#include "data/tokenizer.h"
#include "train/trainer.h"

namespace quest::app {

/// Tokenizer, training set, and validation set and recorded order where they are given.
class RunData {
 public:
  /// Throws Error about data that is missing, damaged, of another tokenizer or too short.
  explicit RunData(const TrainSettings& settings);
  RunData(const RunData&) = delete;
  RunData& operator=(const RunData&) = delete;

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const TokenDataset& train() const { return train_; }
  const TokenDataset* validation() const { return validation_ ? &*validation_ : nullptr; }

  /// Size and a checksum of samples of the training set: equal for the same data only.
  std::string identity() const;
  /// Windows of train.seq_len tokens in one pass over the training set.
  std::int64_t windows_per_epoch(const TrainSettings& settings) const;
  /// Batches of the recorded order, or of the shuffled windows. Throws Error when the order has
  /// fewer than `steps` steps or rows than a step needs. Refers to this.
  BatchSource batches(const TrainSettings& settings, std::int64_t steps) const;
  /// The validation windows; none without validation data. Refers to this.
  std::optional<EvalSource> evaluation(const TrainSettings& settings) const;

 private:
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenDataset train_;
  std::optional<TokenDataset> validation_;
  std::optional<BatchOrder> order_;
  std::optional<TokenLoader> loader_;
  std::optional<EvalWindows> windows_;
};

}  // namespace quest::app
