// The choice of the next token from its logits.
#pragma once

#include <cstdint>
#include <span>

namespace quest {

/// How to choose. The default takes the likeliest token.
struct SamplingOptions {
  double temperature = 0.0;  ///< 0: the likeliest token; else logits are divided by it
  std::int64_t top_k = 0;    ///< choose among the k likeliest; 0: among all
  double top_p = 1.0;        ///< ... and of these among the fewest with at least this probability
  std::uint64_t seed = 0;

  /// Throws UsageError that names the value that is out of range.
  void validate() const;
};

/// The token at `position` of a sequence: a function of its arguments only, so the same seed gives
/// the same text. Of equally likely tokens the lower id comes first. Throws NonFiniteError when a
/// logit is NaN or infinite.
std::int32_t sample(std::span<const float> logits, const SamplingOptions& options,
                    std::int64_t position);

}  // namespace quest
