// A tiny packed model and its logits.
#include "apps/selftest_packed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "apps/random_packed.h"
#include "infer/session.h"

namespace quest::app {
namespace {

constexpr std::int64_t kPrompt = 24;
// As the reference backend computes the first logits. Only orders of sums differ elsewhere; a code
// at the border of two levels that fell the other way would still move them by less than this share
// of the largest.
constexpr double kKnownLogits[] = {12.02153, -2.748633, 10.00008, 1.944875, 5.012997, 1.704416};
constexpr double kTolerance = 1e-3;

ModelDescription tiny_description() {
  ModelDescription description;
  ModelConfig& c = description.config;
  c.layers = 2;
  c.width = 128;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 32;
  c.hidden = 192;
  c.vocab = 96;
  c.max_positions = kPrompt;
  description.scheme = Scheme::parse(
      "w4a4", {"blocks.0.attn.*=w1a1", "blocks.0.mlp.down=w8a8", "blocks.1.attn.out=w3a4",
               "blocks.1.mlp.*=w2a2", "blocks.1.mlp.down=w4a16"});
  description.packed = StoredBits{8, 8};
  return description;
}

// The largest distance from the known logits, as a share of the largest logit.
double distance(std::span<const float> logits) {
  double largest = 0, worst = 0;
  for (const float value : logits) largest = std::max(largest, std::abs(double{value}));
  for (std::size_t i = 0; i < std::size(kKnownLogits); ++i) {
    const double miss = std::abs(logits[i] - kKnownLogits[i]);
    if (!(miss <= worst)) worst = miss;  // NaN stays
  }
  return worst / largest;
}

}  // namespace

CheckResult check_packed_model(Backend& backend) {
  const ModelDescription description = tiny_description();
  const RandomPackedTensors weights(description);
  const PackedModel model(backend, description, weights.view(), DType::kF32);
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < kPrompt; ++i) tokens.push_back(i * 37 % 96);
  Session at_once(model);
  const double whole = distance(at_once.prefill(tokens));
  Session one_by_one(model);
  for (const std::int32_t token : std::span(tokens).first(kPrompt - 1)) one_by_one.decode(token);
  const double decoded = distance(one_by_one.decode(tokens.back()));
  return {"logits of a packed model", whole <= kTolerance && decoded <= kTolerance,
          fmt::format("off by {:.1e} of the largest at once and by {:.1e} token by token, at most "
                      "{:.0e}",
                      whole, decoded, kTolerance)};
}

}  // namespace quest::app
