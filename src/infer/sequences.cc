// Sequences: passes over rows of several sequences.
#include "infer/sequences.h"

#include <algorithm>
#include <cassert>

#include "core/error.h"

namespace quest {
namespace {

std::int64_t capacity_of(const RunnableModel& model, const SequencesOptions& options) {
  const std::int64_t most = model.config().max_positions;
  return options.capacity > 0 ? std::min(options.capacity, most) : most;
}

KvCache take_cache(Arena& arena, const RunnableModel& model, const SequencesOptions& options) {
  return KvCache(arena, model.config(), options.kept.value_or(model.compute()), options.slots,
                 capacity_of(model, options));
}

Arena cache_arena(const RunnableModel& model, const SequencesOptions& options) {
  Arena measuring;
  take_cache(measuring, model, options);
  return Arena(model.backend(), measuring.used_bytes());
}

// Passes of fewer rows need no more memory than those of `rows`.
Arena pass_arena(const RunnableModel& model, std::int64_t rows) {
  Arena measuring;
  measuring.take({rows}, DType::kI32);
  model.make_activations(measuring, {1, rows, false});
  return Arena(model.backend(), measuring.used_bytes());
}

}  // namespace

Sequences::Sequences(const RunnableModel& model, const SequencesOptions& options)
    : model_(&model),
      chunk_(std::min(options.chunk, capacity_of(model, options))),
      cache_memory_(cache_arena(model, options)),
      cache_(take_cache(cache_memory_, model, options)),
      pass_memory_(pass_arena(model, pass_rows())),
      tokens_(pass_memory_.take({pass_rows()}, DType::kI32)),
      pass_mark_(pass_memory_.mark()),
      activations_{} {
  assert(options.chunk > 0 && options.slots > 0 && options.slots <= kMostSlots);
}

void Sequences::check(std::int64_t slot, std::span<const std::int32_t> tokens) const {
  if (tokens.empty()) fail("there is no token to start from; give a prompt");
  if (static_cast<std::int64_t>(tokens.size()) > capacity() - length(slot)) {
    fail("{} tokens do not fit into the model's context: it holds {} positions, {} are in use",
         tokens.size(), capacity(), length(slot));
  }
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= vocab()) {
      fail("token {} is not in the model's vocabulary of {}", token, vocab());
    }
  }
}

std::span<const float> Sequences::run(std::span<const NewTokens> parts) {
  Backend& backend = model_->backend();
  std::vector<std::int32_t> tokens;
  std::vector<PassPart> pass;
  std::int64_t wanted = 0;
  for (const NewTokens& part : parts) {
    assert(static_cast<std::int64_t>(part.tokens.size()) <= chunk_);
    tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
    pass.push_back({part.slot, static_cast<std::int64_t>(part.tokens.size())});
    if (part.wants_logits) ++wanted;
  }
  const auto rows = static_cast<std::int64_t>(tokens.size());
  assert(rows <= pass_rows());
  lay_out(rows);
  const Tensor on_device = tokens_.rows_slice(0, rows);
  backend.copy(on_device, view_of(tokens.data(), on_device.shape));
  cache_.begin_pass(backend, pass);
  model_->prepare_positions(cache_.pass_end());
  const auto body = [&] {
    model_->forward(on_device, activations_, cache_);
    gather_last_rows(parts);
    if (wanted > 0) model_->logits(activations_, 0, wanted);
  };
  // Passes of a token and its logits for each part are all alike but for what lies in tensors.
  if (rows == std::ssize(parts) && rows == wanted) {
    decoding(rows).run(body);
  } else {
    body();
  }
  if (wanted == 0) {
    backend.synchronize();
    return {};
  }
  const Tensor logits = activations_.head.logits.rows_slice(0, wanted);
  const auto count = static_cast<std::size_t>(logits.numel());
  if (backend.place() == Place::kHost) {
    backend.synchronize();
    return {logits.as<float>(), count};  // stay until the next pass
  }
  logits_.resize(count);
  backend.copy(view_of(logits_.data(), logits.shape), logits);
  return logits_;
}

void Sequences::lay_out(std::int64_t rows) {
  if (!activations_.slots.empty() && activations_.shape.length == rows) return;
  pass_memory_.rewind(pass_mark_);
  activations_ = model_->make_activations(pass_memory_, {1, rows, false});
}

Recording& Sequences::decoding(std::int64_t rows) {
  decodings_.resize(std::max(decodings_.size(), static_cast<std::size_t>(rows)));
  std::unique_ptr<Recording>& recording = decodings_[static_cast<std::size_t>(rows - 1)];
  if (recording == nullptr) recording = model_->backend().make_recording();
  return *recording;
}

// Moves the last row of every part that wants logits to the front of what the head reads.
void Sequences::gather_last_rows(std::span<const NewTokens> parts) const {
  const Tensor x = activations_.final_x;
  std::int64_t wanted = 0;
  std::int64_t end = 0;
  for (const NewTokens& part : parts) {
    end += static_cast<std::int64_t>(part.tokens.size());
    if (!part.wants_logits) continue;
    // Rows only move forward, over rows that were read or that nobody wants.
    if (end - 1 != wanted) {
      model_->backend().copy(x.rows_slice(wanted, wanted + 1), x.rows_slice(end - 1, end));
    }
    ++wanted;
  }
}

}  // namespace quest
