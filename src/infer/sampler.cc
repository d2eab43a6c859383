// Greedy, temperature, top-k and top-p sampling.
#include "infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

namespace quest {
namespace {

void require_finite(std::span<const float> logits, std::int64_t position) {
  const auto bad =
      std::find_if(logits.begin(), logits.end(), [](float x) { return !std::isfinite(x); });
  if (bad == logits.end()) return;
  throw NonFiniteError(
      fmt::format("the model's logits at position {} are not finite (token {} has {}); its weights "
                  "are damaged or its training has diverged",
                  position, bad - logits.begin(), *bad));
}

// The ids that top-k leaves, likeliest first if `sorted`, else in any order.
std::vector<std::int32_t> candidates(std::span<const float> logits, std::int64_t top_k,
                                     bool sorted) {
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  };
  if (top_k > 0 && top_k < static_cast<std::int64_t>(ids.size())) {
    std::nth_element(ids.begin(), ids.begin() + top_k, ids.end(), likelier);
    ids.resize(static_cast<std::size_t>(top_k));
    std::sort(ids.begin(), ids.end(), likelier);
  } else if (sorted) {
    std::sort(ids.begin(), ids.end(), likelier);
  }
  return ids;
}

}  // namespace

void SamplingOptions::validate() const {
  if (!(temperature >= 0.0) || !std::isfinite(temperature)) {
    throw UsageError(fmt::format("the temperature must be at least 0, not {}", temperature));
  }
  if (top_k < 0) throw UsageError(fmt::format("top-k must be at least 0, not {}", top_k));
  if (!(top_p > 0.0 && top_p <= 1.0)) {
    throw UsageError(fmt::format("top-p must be greater than 0 and at most 1, not {}", top_p));
  }
}

std::int32_t sample(std::span<const float> logits, const SamplingOptions& options,
                    std::int64_t position) {
  require_finite(logits, position);
  const auto largest = std::max_element(logits.begin(), logits.end());
  if (options.temperature == 0.0) return static_cast<std::int32_t>(largest - logits.begin());

  std::vector<std::int32_t> ids = candidates(logits, options.top_k, options.top_p < 1.0);
  std::vector<double> weights(ids.size());
  double total = 0.0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const double logit = logits[static_cast<std::size_t>(ids[i])];
    weights[i] = std::exp((logit - double{*largest}) / options.temperature);
    total += weights[i];
  }
  if (options.top_p < 1.0) {
    const double wanted = options.top_p * total;
    std::size_t kept = 0;
    for (total = 0.0; kept < weights.size() && total < wanted; ++kept) total += weights[kept];
    weights.resize(kept);
  }
  Rng rng(options.seed, RngPurpose::kSample, static_cast<std::uint32_t>(position));
  double left = rng.uniform() * total;
  std::size_t chosen = 0;
  while (chosen + 1 < weights.size() && left >= weights[chosen]) left -= weights[chosen++];
  // Rounding may walk past the last token that can occur at all.
  while (chosen > 0 && weights[chosen] == 0.0) --chosen;
  return ids[chosen];
}

}  // namespace quest
