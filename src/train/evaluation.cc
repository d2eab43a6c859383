// Evaluation over windows in passes of a fixed shape.
#include "train/evaluation.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/model.h"
#include "train/non_finite.h"

namespace quest {
namespace {

constexpr std::int32_t kIgnored = -1;

// The token buffers of one pass, on the device.
struct PassTokens {
  PassTokens(Backend& backend, std::int64_t rows)
      : arena(backend, 2 * (static_cast<std::size_t>(rows) * 4 + 64)),
        tokens(arena.take({rows}, DType::kI32)),
        targets(arena.take({rows}, DType::kI32)) {}

  Arena arena;
  Tensor tokens;
  Tensor targets;
};

// The cache of one pass, which every pass begins empty.
struct PassCache {
  PassCache(const RunnableModel& model, const PassShape& shape, std::optional<DType> kept) {
    if (!kept) return;
    Arena measuring;
    take(measuring, model, shape, *kept);
    arena = Arena(model.backend(), measuring.used_bytes());
    cache = take(arena, model, shape, *kept);
    for (std::int64_t b = 0; b < shape.batch; ++b) parts.push_back({b, shape.length});
  }
  static KvCache take(Arena& arena, const RunnableModel& model, const PassShape& shape,
                      DType kept) {
    return KvCache(arena, model.config(), kept, shape.batch, shape.length);
  }
  KvCache& begin(Backend& backend) {
    for (std::int64_t b = 0; b < cache.slots(); ++b) cache.truncate(b, 0);
    cache.begin_pass(backend, parts);
    return cache;
  }

  Arena arena;
  KvCache cache;
  std::vector<PassPart> parts;
};

// Where values broke, in a model whose weights can be searched; packed ones were checked on
// loading.
std::string place_of_non_finite(const RunnableModel& model, Activations& a, Tensor tokens) {
  const auto* const searched = dynamic_cast<const Model*>(&model);
  if (searched == nullptr) return "";
  return ", first seen in " + find_non_finite(model.backend(), searched->llama(), a, tokens);
}

}  // namespace

double Evaluation::perplexity() const { return std::exp(loss()); }

double Evaluation::bits_per_byte() const {
  return text_bytes > 0 ? loss_sum / std::numbers::ln2 / static_cast<double>(text_bytes) : 0.0;
}

EvalSource EvalSource::windows(const EvalWindows& windows) {
  return {windows.batches(), [&](std::int64_t index, Batch& batch) { windows.load(index, batch); }};
}

EvalSource EvalSource::order(const BatchOrder& order, const TokenDataset& data,
                             std::int64_t seq_len) {
  return {order.val_batches(), [&order, &data, seq_len](std::int64_t index, Batch& batch) {
            order.load_val(data, seq_len, index, batch);
          }};
}

Evaluation evaluate(const RunnableModel& model, Activations& a, const EvalSource& source,
                    const Tokenizer& tokenizer, std::optional<DType> kept) {
  Backend& backend = model.backend();
  const std::int64_t rows = a.shape.batch;
  const std::int64_t length = a.shape.length;
  const auto positions = static_cast<std::size_t>(a.shape.rows());
  PassTokens device(backend, a.shape.rows());
  PassCache cache(model, a.shape, kept);
  std::vector<std::int32_t> tokens(positions);
  std::vector<std::int32_t> targets(positions);
  std::vector<float> losses(positions);
  std::vector<std::uint8_t> correct(positions);
  Evaluation total;
  Batch batch;
  for (std::int64_t index = 0; index < source.batches; ++index) {
    source.load(index, batch);
    assert(batch.seq_len == length);
    for (std::int64_t first = 0; first < batch.rows; first += rows) {
      const auto used = static_cast<std::size_t>(std::min(rows, batch.rows - first) * length);
      // Missing rows are filled with tokens whose targets do not count.
      std::fill(tokens.begin(), tokens.end(), 0);
      std::fill(targets.begin(), targets.end(), kIgnored);
      std::copy_n(batch.input_tokens.begin() + first * length, used, tokens.begin());
      std::copy_n(batch.target_tokens.begin() + first * length, used, targets.begin());
      backend.copy(device.tokens, view_of(tokens.data(), device.tokens.shape));
      backend.copy(device.targets, view_of(targets.data(), device.targets.shape));
      model.losses(a, device.tokens, device.targets, cache.begin(backend));
      backend.copy(view_of(losses.data(), a.losses.shape), a.losses);
      backend.copy(view_of(correct.data(), a.correct.shape), a.correct);
      backend.synchronize();
      for (std::size_t i = 0; i < used; ++i) {
        total.loss_sum += losses[i];
        total.correct += correct[i];
        total.text_bytes += tokenizer.token_bytes(targets[i]);
      }
      total.tokens += static_cast<std::int64_t>(used);
      if (!std::isfinite(total.loss_sum)) {
        throw NonFiniteError("the evaluation loss is NaN or infinite" +
                             place_of_non_finite(model, a, device.tokens));
      }
    }
  }
  return total;
}

}  // namespace quest
