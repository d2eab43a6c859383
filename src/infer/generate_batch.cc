// Continuous batching over the slots of Sequences.
#include "infer/generate_batch.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

namespace quest {
namespace {

// A prompt in a slot.
struct Running {
  Running(std::int64_t at, BatchPrompt given)
      : slot(at), prompt(std::move(given)), continuation(prompt.options) {}

  std::int64_t slot;
  BatchPrompt prompt;
  Continuation continuation;
  std::size_t prefilled = 0;

  bool decodes() const { return prefilled == prompt.tokens.size(); }
  /// What it would run next; `chunk` tokens of its prompt at most.
  NewTokens next(std::int64_t chunk) const {
    if (decodes()) return {slot, std::span(continuation.tokens()).last(1)};
    const auto left = std::span(prompt.tokens).subspan(prefilled);
    const auto count = std::min(left.size(), static_cast<std::size_t>(chunk));
    return {slot, left.first(count), count == left.size()};
  }
};

class Batch {
 public:
  Batch(Sequences& sequences, const std::function<std::optional<BatchPrompt>()>& next)
      : sequences_(sequences), next_(next) {
    for (std::int64_t slot = sequences.slots() - 1; slot >= 0; --slot) free_.push_back(slot);
  }

  BatchTotals run() {
    fill_slots();
    while (!running_.empty()) {
      pass();
      fill_slots();
    }
    return totals_;
  }

 private:
  void fill_slots() {
    while (!free_.empty() && !exhausted_) {
      std::optional<BatchPrompt> prompt = next_();
      exhausted_ = !prompt;
      if (exhausted_) return;
      ++totals_.prompts;
      totals_.prompt_tokens += static_cast<std::int64_t>(prompt->tokens.size());
      sequences_.truncate(free_.back(), 0);
      running_.emplace_back(free_.back(), std::move(*prompt));
      free_.pop_back();
    }
  }

  // Those that decode first, since each takes one row, then prompts in the order of their coming.
  std::vector<Running*> plan() {
    std::vector<Running*> planned;
    std::int64_t rows = 0;
    for (const bool decodes : {true, false}) {
      for (Running& one : running_) {
        if (one.decodes() != decodes) continue;
        const auto count = static_cast<std::int64_t>(one.next(sequences_.chunk()).tokens.size());
        if (rows + count > sequences_.pass_rows()) continue;
        planned.push_back(&one);
        rows += count;
      }
    }
    return planned;
  }

  void pass() {
    const std::vector<Running*> planned = plan();
    std::vector<NewTokens> parts;
    for (const Running* one : planned) parts.push_back(one->next(sequences_.chunk()));
    const auto start = std::chrono::steady_clock::now();
    const std::span<const float> logits = sequences_.run(parts);
    ++totals_.passes;
    std::vector<Running*> added;
    std::size_t row = 0;
    const auto vocab = static_cast<std::size_t>(sequences_.vocab());
    for (std::size_t i = 0; i < parts.size(); ++i) {
      Running& one = *planned[i];
      if (!one.decodes()) one.prefilled += parts[i].tokens.size();
      if (!parts[i].wants_logits) continue;
      const bool chosen = one.continuation.choose(
          logits.subspan(vocab * row++, vocab), sequences_.length(one.slot), sequences_.capacity());
      if (chosen) added.push_back(&one);
    }
    totals_.seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    totals_.new_tokens += static_cast<std::int64_t>(added.size());
    for (Running* one : added) {
      if (one->prompt.on_token) one->prompt.on_token(one->continuation.tokens().back());
    }
    end_finished();
  }

  void end_finished() {
    std::erase_if(running_, [&](const Running& one) {
      if (!one.decodes()) return false;
      const std::optional<StopReason> reason = one.continuation.ended();
      if (!reason) return false;
      if (one.prompt.on_end) one.prompt.on_end(one.continuation.tokens(), *reason);
      free_.push_back(one.slot);
      return true;
    });
  }

  Sequences& sequences_;
  const std::function<std::optional<BatchPrompt>()>& next_;
  std::vector<std::int64_t> free_;
  std::vector<Running> running_;  // in the order of their coming
  bool exhausted_ = false;
  BatchTotals totals_;
};

}  // namespace

BatchTotals generate_batch(Sequences& sequences,
                           const std::function<std::optional<BatchPrompt>()>& next) {
  return Batch(sequences, next).run();
}

}  // namespace quest
