// RunData: opening of tokenizer, datasets and order.
#include "apps/run_data.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace quest::app {

RunData::RunData(const TrainSettings& settings)
    : tokenizer_(load_tokenizer(settings.data.tokenizer)),
      train_(open_dataset(settings.data.train, *tokenizer_)) {
  const TrainSettings::Train& train = settings.train;
  if (!settings.data.valid.empty()) {
    validation_ = open_dataset(settings.data.valid, *tokenizer_);
  }
  if (!settings.data.order.empty()) {
    order_ = BatchOrder::load(settings.data.order);
    order_->require_fits(train_, validation(), train.seq_len);
  } else {
    loader_.emplace(train_, LoaderConfig{train.batch_size, train.seq_len, train.grad_accum, 0, 1,
                                         static_cast<std::uint64_t>(train.data_seed)});
  }
  const bool ordered_validation = order_ && order_->val_batches() > 0;
  if (validation_ && !ordered_validation) {
    windows_.emplace(*validation_, train.batch_size, train.seq_len);
  }
}

std::string RunData::identity() const {
  constexpr std::int64_t kSamples = 64;
  constexpr std::int64_t kSampleTokens = 1024;
  Checksum checksum;
  std::vector<std::int32_t> tokens(
      static_cast<std::size_t>(std::min(kSampleTokens, train_.size())));
  const auto count = static_cast<std::int64_t>(tokens.size());
  for (std::int64_t sample = 0; sample < kSamples; ++sample) {
    train_.read((train_.size() - count) * sample / (kSamples - 1), count, tokens.data());
    checksum.update(tokens.data(), tokens.size() * sizeof(tokens[0]));
  }
  return fmt::format("{} tokens, {}", train_.size(), checksum.hex());
}

std::int64_t RunData::windows_per_epoch(const TrainSettings& settings) const {
  return loader_ ? loader_->windows_per_epoch() : train_.size() / settings.train.seq_len;
}

BatchSource RunData::batches(const TrainSettings& settings, std::int64_t steps) const {
  if (!order_) {
    return [this](std::int64_t step, std::int64_t micro, Batch& batch) {
      loader_->load(step, micro, batch);
    };
  }
  const std::int64_t rows = settings.train.batch_size;
  const std::int64_t rows_per_step = rows * settings.train.grad_accum;
  if (order_->steps() < steps || order_->train_rows() != rows_per_step) {
    fail("{} holds {} steps of {} windows, but the run needs {} of {}", settings.data.order,
         order_->steps(), order_->train_rows(), steps, rows_per_step);
  }
  const std::int64_t seq_len = settings.train.seq_len;
  return [this, rows, seq_len](std::int64_t step, std::int64_t micro, Batch& batch) {
    order_->load_train(train_, seq_len, step, micro * rows, rows, batch);
  };
}

std::optional<EvalSource> RunData::evaluation(const TrainSettings& settings) const {
  if (windows_) return EvalSource::windows(*windows_);
  if (validation_) return EvalSource::order(*order_, *validation_, settings.train.seq_len);
  return std::nullopt;
}

}  // namespace quest::app
