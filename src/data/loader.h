// Batches of token windows: shuffled for training, in order for evaluation, or in a given order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/safetensors.h"
#include "core/tensor.h"
#include "data/shards.h"

namespace quest {

/// Rows of consecutive tokens and, for each position, the token that follows.
struct Batch {
  std::int64_t rows = 0;
  std::int64_t seq_len = 0;
  std::vector<std::int32_t> input_tokens;   ///< [rows, seq_len]
  std::vector<std::int32_t> target_tokens;  ///< [rows, seq_len], inputs shifted by one.

  /// Views [rows, seq_len] I32 of this batch.
  Tensor inputs() const { return view_of(input_tokens.data(), {rows, seq_len}); }
  Tensor targets() const { return view_of(target_tokens.data(), {rows, seq_len}); }

  /// Sets rows and length, and reads row r from tokens [starts[r], starts[r] + seq_len + 1).
  void load(const TokenDataset& data, const std::vector<std::int64_t>& starts,
            std::int64_t new_seq_len);
};

/// A permutation of {0, ..., size - 1} keyed by (seed, epoch), computed anew for each look-up and
/// stored nowhere: a Feistel network over the next even power of two, walked until it lands inside.
class KeyedPermutation {
 public:
  /// 0 < size <= 2^62.
  KeyedPermutation(std::int64_t size, std::uint64_t seed, std::uint32_t epoch);
  /// The image of `index`, 0 <= index < size.
  std::int64_t operator()(std::int64_t index) const;

 private:
  std::uint64_t permute_once(std::uint64_t value) const;

  std::uint64_t size_;
  std::uint64_t seed_;
  std::uint32_t epoch_;
  int half_bits_;
};

struct LoaderConfig {
  std::int64_t batch_size = 1;  ///< Rows of a micro-batch.
  std::int64_t seq_len = 1;     ///< T
  std::int64_t grad_accum = 1;  ///< Micro-batches of a step and rank.
  std::int64_t rank = 0;
  std::int64_t world = 1;
  std::uint64_t seed = 0;
};

/// The training batches. A batch is a pure function of (config, step, micro_batch): there is no
/// state, and resuming needs only the step. An epoch visits every window of T + 1 tokens (stride T)
/// once, in random order, the windows starting at a phase that each epoch draws anew, so that an
/// epoch leaves out less than 2T tokens, others each time. The sequences of a step, ordered by
/// (micro_batch, rank, row), depend only on their number batch_size * grad_accum * world.
class TokenLoader {
 public:
  /// `data` must outlive the loader. Throws Error when it is shorter than one window.
  TokenLoader(const TokenDataset& data, const LoaderConfig& config);

  /// step >= 0, 0 <= micro_batch < grad_accum.
  void load(std::int64_t step, std::int64_t micro_batch, Batch& batch) const;
  std::int64_t windows_per_epoch() const { return windows_; }
  std::int64_t sequences_per_step() const {
    return config_.batch_size * config_.grad_accum * config_.world;
  }
  /// First token of the `sequence`-th sequence of training, counted over all steps and ranks.
  std::int64_t window_start(std::int64_t sequence) const;

 private:
  const TokenDataset& data_;
  LoaderConfig config_;
  std::int64_t windows_;
  std::int64_t phases_;  ///< Number of phases to choose from.
};

/// Consecutive windows over all of a validation set: window w is tokens [wT, wT + T], so every
/// target is predicted once; fewer than T targets at the end do not fill a window and are left out.
class EvalWindows {
 public:
  /// `data` must outlive this. Throws Error when it is shorter than one window.
  EvalWindows(const TokenDataset& data, std::int64_t batch_size, std::int64_t seq_len);

  std::int64_t windows() const { return windows_; }
  std::int64_t batches() const { return (windows_ + batch_size_ - 1) / batch_size_; }
  /// Batch `index` of `batches()`; the last one may have fewer rows.
  void load(std::int64_t index, Batch& batch) const;

 private:
  const TokenDataset& data_;
  std::int64_t batch_size_;
  std::int64_t seq_len_;
  std::int64_t windows_;
};

/// A batch order that another program recorded: a safetensors file with `train_starts` I32
/// [steps, B] and optionally `val_starts` I32 [batches, B], offsets into the training and the
/// validation tokens. Row input = tokens[s, s + T), target = tokens[s + 1, s + T + 1).
class BatchOrder {
 public:
  /// Throws Error when the file cannot be read or has no such tensors.
  static BatchOrder load(const std::filesystem::path& path);

  std::int64_t steps() const { return train_.batches; }
  std::int64_t train_rows() const { return train_.rows; }
  std::int64_t val_batches() const { return val_.batches; }
  std::int64_t val_rows() const { return val_.rows; }

  /// Throws Error unless every window of T = `seq_len` lies inside its set. `val` may be null when
  /// there is no validation order.
  void require_fits(const TokenDataset& train, const TokenDataset* val, std::int64_t seq_len) const;
  /// Rows [first_row, first_row + rows) of step `step`, from a set that `require_fits` accepted.
  void load_train(const TokenDataset& data, std::int64_t seq_len, std::int64_t step,
                  std::int64_t first_row, std::int64_t rows, Batch& batch) const;
  /// All rows of validation batch `index`.
  void load_val(const TokenDataset& data, std::int64_t seq_len, std::int64_t index,
                Batch& batch) const;

 private:
  struct Starts {
    std::vector<std::int32_t> values;  ///< [batches, rows]
    std::int64_t batches = 0;
    std::int64_t rows = 0;
  };

  static Starts read_starts(const SafetensorsFile& file, const std::string& name);
  void require_inside(const Starts& starts, const char* name, const TokenDataset& data,
                      std::int64_t seq_len) const;
  static void load_rows(const Starts& starts, const TokenDataset& data, std::int64_t seq_len,
                        std::int64_t first, std::int64_t rows, Batch& batch);

  std::string path_;
  Starts train_;
  Starts val_;
};

}  // namespace quest
