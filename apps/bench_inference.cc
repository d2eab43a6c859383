// Timed passes of packed models.
#include "apps/bench_inference.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "core/rng.h"
#include "infer/session.h"

namespace quest::app {
namespace {

double product_seconds(TimingBackend& backend) {
  return backend.times().seconds[static_cast<std::size_t>(Work::kForwardProduct)];
}

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab) {
  Rng rng(2, RngPurpose::kTest);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::int32_t& token : tokens) {
    token = static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(vocab)));
  }
  return tokens;
}

// Seconds of the repetitions of `batch` sequences that decode from empty contexts.
std::vector<double> time_batch(const PackedModel& model, const std::vector<std::int32_t>& tokens,
                               std::int64_t batch, const InferenceWork& work) {
  Sequences sequences(model, {.slots = batch, .chunk = 1});
  std::vector<double> times;
  for (std::int64_t repetition = 0; repetition <= work.repetitions; ++repetition) {
    for (std::int64_t slot = 0; slot < batch; ++slot) sequences.truncate(slot, 0);
    const Clock::time_point start = Clock::now();
    for (std::int64_t i = 0; i < work.decode_tokens; ++i) {
      std::vector<NewTokens> parts;
      for (std::int64_t slot = 0; slot < batch; ++slot) {
        parts.push_back({slot, std::span(tokens).subspan(static_cast<std::size_t>(i), 1)});
      }
      sequences.run(parts);
    }
    if (repetition > 0) times.push_back(seconds_since(start));  // the first is a warm-up
  }
  return times;
}

struct TokenTimes {
  double product;
  double read;
};

// Medians over the tokens: what a token's products take, and a reading of the weights after it.
TokenTimes time_tokens_and_reads(TimingBackend& backend, Session& session,
                                 std::span<const std::int32_t> tokens, const InferenceWork& work) {
  std::vector<double> products;
  std::vector<std::vector<double>> reads(work.read_weights.size());
  session.truncate(0);
  const std::size_t count = std::max(tokens.size(), 2 * reads.size());
  for (std::size_t i = 0; i < count; ++i) {
    if (i % tokens.size() == 0) session.truncate(0);
    backend.reset_times();
    session.decode(tokens[i % tokens.size()]);
    products.push_back(product_seconds(backend));
    const std::size_t way = i % reads.size();
    reads[way].push_back(work.read_weights[way]());
  }
  double fastest = median(reads[0]);
  for (const std::vector<double>& seconds : reads) fastest = std::min(fastest, median(seconds));
  return {median(products), fastest};
}

}  // namespace

InferenceTimes time_inference(TimingBackend& backend, const PackedModel& model,
                              const InferenceWork& work) {
  const std::vector<std::int32_t> tokens =
      random_tokens(std::max(work.prefill_tokens, work.decode_tokens), model.config().vocab);
  const auto prompt = std::span(tokens).first(static_cast<std::size_t>(work.prefill_tokens));
  const auto text = std::span(tokens).first(static_cast<std::size_t>(work.decode_tokens));
  Session session(model, {.chunk = work.prefill_tokens});
  InferenceTimes times;
  for (std::int64_t repetition = 0; repetition <= work.repetitions; ++repetition) {
    session.truncate(0);
    backend.reset_times();
    Clock::time_point start = Clock::now();
    session.prefill(prompt);
    const double prefill = seconds_since(start);
    const double prefill_product = product_seconds(backend);

    backend.keep_times(false);  // a device decodes by graphs then, as it does in use
    session.truncate(0);
    session.decode(tokens[0]);
    session.truncate(0);
    start = Clock::now();
    for (const std::int32_t token : text) session.decode(token);
    const double decode = seconds_since(start);
    backend.keep_times(true);
    const TokenTimes token = time_tokens_and_reads(backend, session, text, work);
    if (repetition == 0) continue;  // a warm-up
    times.prefill.push_back(prefill);
    times.prefill_product.push_back(prefill_product);
    times.decode.push_back(decode);
    times.token_product.push_back(token.product);
    times.token_read.push_back(token.read);
  }
  backend.keep_times(false);
  for (const std::int64_t batch : work.batches) {
    times.batch_decode[batch] = time_batch(model, tokens, batch, work);
  }
  return times;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace quest::app
