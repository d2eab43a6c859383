// Session: chunked passes over one kept sequence.
#include "infer/session.h"

#include <algorithm>
#include <cassert>

#include "core/error.h"

namespace quest {
namespace {

std::int64_t capacity_of(const RunnableModel& model, std::int64_t wanted) {
  const std::int64_t most = model.config().max_positions;
  return wanted > 0 ? std::min(wanted, most) : most;
}

Arena cache_arena(const RunnableModel& model, std::int64_t capacity) {
  Arena measuring;
  const KvCache measured(measuring, model.config(), model.compute(), 1, capacity);
  return Arena(model.backend(), measuring.used_bytes());
}

// Passes of fewer positions need no more memory than those of `chunk`.
Arena pass_arena(const RunnableModel& model, std::int64_t chunk) {
  Arena measuring;
  measuring.take({chunk}, DType::kI32);
  model.make_activations(measuring, {1, chunk, false});
  return Arena(model.backend(), measuring.used_bytes());
}

}  // namespace

Session::Session(const RunnableModel& model, const SessionOptions& options)
    : model_(&model),
      chunk_(std::min(options.chunk, capacity_of(model, options.capacity))),
      cache_memory_(cache_arena(model, capacity_of(model, options.capacity))),
      cache_(cache_memory_, model.config(), model.compute(), 1,
             capacity_of(model, options.capacity)),
      pass_memory_(pass_arena(model, chunk_)),
      tokens_(pass_memory_.take({chunk_}, DType::kI32)),
      activations_{},
      logits_(static_cast<std::size_t>(model.config().vocab)) {
  assert(options.chunk > 0);
  pass_mark_ = pass_memory_.mark();
}

std::span<const float> Session::prefill(std::span<const std::int32_t> tokens) {
  check(tokens);
  Backend& backend = model_->backend();
  while (!tokens.empty()) {
    const auto count = std::min(tokens.size(), static_cast<std::size_t>(chunk_));
    run(tokens.first(count));
    tokens = tokens.subspan(count);
  }
  const std::int64_t last = activations_.shape.length - 1;
  const Tensor row = model_->logits(activations_, last, 1);
  backend.copy(view_of(logits_.data(), row.shape), row);
  backend.synchronize();
  return logits_;
}

void Session::truncate(std::int64_t length) {
  assert(length >= 0 && length <= cache_.length());
  cache_.truncate(length);
}

void Session::check(std::span<const std::int32_t> tokens) const {
  if (tokens.empty()) fail("there is no token to start from; give a prompt");
  if (static_cast<std::int64_t>(tokens.size()) > capacity() - length()) {
    fail("{} tokens do not fit into the model's context: it holds {} positions, {} are in use",
         tokens.size(), capacity(), length());
  }
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= model_->config().vocab) {
      fail("token {} is not in the model's vocabulary of {}", token, model_->config().vocab);
    }
  }
}

void Session::run(std::span<const std::int32_t> tokens) {
  Backend& backend = model_->backend();
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (activations_.slots.empty() || activations_.shape.length != count) {
    pass_memory_.rewind(pass_mark_);
    activations_ = model_->make_activations(pass_memory_, {1, count, false});
  }
  const Tensor on_device = tokens_.rows_slice(0, count);
  backend.copy(on_device, view_of(tokens.data(), on_device.shape));
  model_->forward(on_device, activations_, cache_);
}

}  // namespace quest
