// The windows that make up batches, and their order.
#include "data/loader.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

#include "core/error.h"
#include "core/rng.h"

namespace quest {
namespace {

// Philox counters of the phase draw lie above those of the Feistel rounds.
constexpr std::uint64_t kPhaseIndex = std::uint64_t{1} << 63;
constexpr int kFeistelRounds = 6;

void require_window(const TokenDataset& data, std::int64_t seq_len, const char* what) {
  if (data.size() < seq_len + 1) {
    fail(
        "the {} data has {} tokens, but one window of sequence length {} needs {}: give more text "
        "or a shorter sequence",
        what, data.size(), seq_len, seq_len + 1);
  }
}

}  // namespace

void Batch::load(const TokenDataset& data, const std::vector<std::int64_t>& starts,
                 std::int64_t new_seq_len) {
  rows = static_cast<std::int64_t>(starts.size());
  seq_len = new_seq_len;
  input_tokens.resize(static_cast<std::size_t>(rows * seq_len));
  target_tokens.resize(static_cast<std::size_t>(rows * seq_len));
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t start = starts[static_cast<std::size_t>(r)];
    data.read(start, seq_len, input_tokens.data() + r * seq_len);
    data.read(start + 1, seq_len, target_tokens.data() + r * seq_len);
  }
}

KeyedPermutation::KeyedPermutation(std::int64_t size, std::uint64_t seed, std::uint32_t epoch)
    : size_(static_cast<std::uint64_t>(size)), seed_(seed), epoch_(epoch) {
  assert(size > 0 && size <= std::int64_t{1} << 62);
  half_bits_ = std::max(1, (static_cast<int>(std::bit_width(size_ - 1)) + 1) / 2);
}

std::uint64_t KeyedPermutation::permute_once(std::uint64_t value) const {
  const Rng rng(seed_, RngPurpose::kShuffle, epoch_);
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = value >> half_bits_;
  std::uint64_t right = value & mask;
  for (std::uint64_t round = 0; round < kFeistelRounds; ++round) {
    const std::uint64_t mixed = left ^ (rng.bits((round << 32) | right)[0] & mask);
    left = right;
    right = mixed;
  }
  return (left << half_bits_) | right;
}

std::int64_t KeyedPermutation::operator()(std::int64_t index) const {
  auto value = static_cast<std::uint64_t>(index);
  assert(value < size_);
  do {
    value = permute_once(value);
  } while (value >= size_);
  return static_cast<std::int64_t>(value);
}

TokenLoader::TokenLoader(const TokenDataset& data, const LoaderConfig& config)
    : data_(data), config_(config) {
  assert(config.batch_size > 0 && config.seq_len > 0 && config.grad_accum > 0);
  assert(config.rank >= 0 && config.rank < config.world);
  require_window(data, config.seq_len, "training");
  // As many windows as fit behind the latest of the T phases; with fewer than 2T tokens, one.
  windows_ = std::max<std::int64_t>(1, (data.size() - config.seq_len) / config.seq_len);
  phases_ = std::min(config.seq_len, data.size() - windows_ * config.seq_len);
}

std::int64_t TokenLoader::window_start(std::int64_t sequence) const {
  const auto epoch = static_cast<std::uint32_t>(sequence / windows_);
  const auto word = Rng(config_.seed, RngPurpose::kShuffle, epoch).bits(kPhaseIndex);
  const auto phase = static_cast<std::int64_t>(
      (std::uint64_t{word[0]} * static_cast<std::uint64_t>(phases_)) >> 32);
  const KeyedPermutation permutation(windows_, config_.seed, epoch);
  return phase + permutation(sequence % windows_) * config_.seq_len;
}

void TokenLoader::load(std::int64_t step, std::int64_t micro_batch, Batch& batch) const {
  assert(step >= 0 && micro_batch >= 0 && micro_batch < config_.grad_accum);
  const std::int64_t first =
      ((step * config_.grad_accum + micro_batch) * config_.world + config_.rank) *
      config_.batch_size;
  std::vector<std::int64_t> starts(static_cast<std::size_t>(config_.batch_size));
  for (std::int64_t r = 0; r < config_.batch_size; ++r) {
    starts[static_cast<std::size_t>(r)] = window_start(first + r);
  }
  batch.load(data_, starts, config_.seq_len);
}

EvalWindows::EvalWindows(const TokenDataset& data, std::int64_t batch_size, std::int64_t seq_len)
    : data_(data), batch_size_(batch_size), seq_len_(seq_len) {
  assert(batch_size > 0 && seq_len > 0);
  require_window(data, seq_len, "validation");
  windows_ = (data.size() - 1) / seq_len;
}

void EvalWindows::load(std::int64_t index, Batch& batch) const {
  assert(index >= 0 && index < batches());
  std::vector<std::int64_t> starts;
  const std::int64_t end = std::min(windows_, (index + 1) * batch_size_);
  for (std::int64_t w = index * batch_size_; w < end; ++w) starts.push_back(w * seq_len_);
  batch.load(data_, starts, seq_len_);
}

BatchOrder::Starts BatchOrder::read_starts(const SafetensorsFile& file, const std::string& name) {
  const Tensor& tensor = file.tensor(name);
  if (tensor.dtype != DType::kI32 || tensor.shape.rank() != 2 || tensor.numel() == 0) {
    fail("{}: tensor '{}' is {} {}, expected I32 [batches, rows]", file.path().string(), name,
         quest::name(tensor.dtype), tensor.shape.to_string());
  }
  Starts starts{{}, tensor.shape[0], tensor.shape[1]};
  starts.values.resize(static_cast<std::size_t>(tensor.numel()));
  std::memcpy(starts.values.data(), tensor.data, tensor.bytes());  // The map may be unaligned.
  return starts;
}

BatchOrder BatchOrder::load(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  file.verify(false);
  BatchOrder order;
  order.path_ = path.string();
  order.train_ = read_starts(file, "train_starts");
  if (file.contains("val_starts")) order.val_ = read_starts(file, "val_starts");
  return order;
}

void BatchOrder::require_inside(const Starts& starts, const char* name, const TokenDataset& data,
                                std::int64_t seq_len) const {
  for (std::size_t i = 0; i < starts.values.size(); ++i) {
    if (starts.values[i] < 0 || starts.values[i] + seq_len + 1 > data.size()) {
      fail("{}: {}[{}, {}] = {} does not leave room for {} tokens in data of {} tokens", path_,
           name, static_cast<std::int64_t>(i) / starts.rows,
           static_cast<std::int64_t>(i) % starts.rows, starts.values[i], seq_len + 1, data.size());
    }
  }
}

void BatchOrder::require_fits(const TokenDataset& train, const TokenDataset* val,
                              std::int64_t seq_len) const {
  require_inside(train_, "train_starts", train, seq_len);
  if (val_.values.empty()) return;
  assert(val != nullptr);
  require_inside(val_, "val_starts", *val, seq_len);
}

void BatchOrder::load_rows(const Starts& starts, const TokenDataset& data, std::int64_t seq_len,
                           std::int64_t first, std::int64_t rows, Batch& batch) {
  const auto* begin = starts.values.data() + first;
  batch.load(data, {begin, begin + rows}, seq_len);
}

void BatchOrder::load_train(const TokenDataset& data, std::int64_t seq_len, std::int64_t step,
                            std::int64_t first_row, std::int64_t rows, Batch& batch) const {
  assert(step >= 0 && step < steps() && first_row >= 0 && first_row + rows <= train_.rows);
  load_rows(train_, data, seq_len, step * train_.rows + first_row, rows, batch);
}

void BatchOrder::load_val(const TokenDataset& data, std::int64_t seq_len, std::int64_t index,
                          Batch& batch) const {
  assert(index >= 0 && index < val_.batches);
  load_rows(val_, data, seq_len, index * val_.rows, val_.rows, batch);
}

}  // namespace quest
