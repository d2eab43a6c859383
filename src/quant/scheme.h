// Scheme: how the weights and inputs of linear layers are quantized, as a value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/grid.h"

namespace quest {

/// Axis 1: rotation before quantization.
enum class Transform : std::uint8_t { kNone, kHadamard };

/// Axis 2: where the clip point of a row comes from. Learned ranges will stand here.
enum class RangeRule : std::uint8_t { kGaussian };

/// Axis 3: which elements let the gradient through.
enum class Estimator : std::uint8_t {
  kTrust,  ///< |Q(z) - z| <= alpha rms / (2^b - 1): the published trust mask; as a bound on z,
           ///< |z| <= 2^b / (2^b - 1) alpha rms
  kClip,   ///< |z| <= kappa s, s = alpha rms + 1e-8
  kSte,    ///< all
};

/// One side (weights or inputs) of a quantized product. Axis 4, the levels, is `bits`.
struct SideScheme {
  int bits = kUnquantizedBits;
  RangeRule range = RangeRule::kGaussian;
  Estimator estimator = Estimator::kTrust;
  /// Clip bound in units of the clip point; used by kClip only.
  double kappa = 1.0;

  bool quantized() const { return bits != kUnquantizedBits; }
  bool operator==(const SideScheme&) const = default;
};

/// A linear layer's scheme: the two sides and the rotation that they share.
///
/// Text form: `none`, or `wXaY` with X and Y in 1..8 or 16 (16: that side is not quantized),
/// followed by any of `hadamard` (default) | `none` (no rotation), `trust` (default) | `clip` |
/// `ste`, and `kappa=K` (implies clip). A 1-bit side with the default estimator clips at kappa 1.30
/// (1.25 without rotation), as the published 1-bit runs did; `trust` written out overrides that.
/// `clip` without kappa clips at the outermost level (kappa 1).
struct LinearScheme {
  SideScheme weight;
  SideScheme activation;
  Transform transform = Transform::kHadamard;

  /// Throws Error that names the part of `text` that is wrong.
  static LinearScheme parse(std::string_view text);
  /// The shortest text that parses to this.
  std::string to_string() const;

  bool quantized() const { return weight.quantized() || activation.quantized(); }
  /// Both sides are codes in the same rotated domain, so the product is one of integers.
  bool integer_product() const { return weight.quantized() && activation.quantized(); }
  bool operator==(const LinearScheme&) const = default;
};

/// The scheme of a model: a default, and overrides by layer name.
class Scheme {
 public:
  Scheme() = default;
  explicit Scheme(LinearScheme base) : base_(base) {}

  /// `base` as for LinearScheme::parse; each override reads `pattern=scheme`, where the pattern is
  /// a layer name such as `blocks.3.mlp.down` in which `*` stands for any run of characters. The
  /// last override that matches wins.
  static Scheme parse(std::string_view base, const std::vector<std::string>& overrides = {});

  const LinearScheme& base() const { return base_; }
  /// The last override that matches `name`, else the base.
  LinearScheme for_layer(std::string_view name) const { return for_layer(name, base_); }
  /// As above with another fallback: the head is `none` unless an override names it.
  LinearScheme for_layer(std::string_view name, LinearScheme fallback) const;
  /// `pattern=scheme` texts, in order.
  std::vector<std::string> overrides() const;
  /// Throws Error naming the first override that matches none of `layer_names`.
  void check_overrides(const std::vector<std::string>& layer_names) const;
  /// "w4a4" or "w4a4 (+2 layer overrides)".
  std::string to_string() const;
  bool operator==(const Scheme&) const = default;

 private:
  LinearScheme base_;
  std::vector<std::pair<std::string, LinearScheme>> overrides_;
};

}  // namespace quest
