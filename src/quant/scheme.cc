// Parsing and printing of schemes.
#include "quant/scheme.h"

#include <charconv>
#include <optional>

#include "core/error.h"

namespace quest {
namespace {

constexpr double kOneBitKappa = 1.30;
constexpr double kOneBitKappaUnrotated = 1.25;

// What the words after `wXaY` ask for; empty where they are silent.
struct Options {
  Transform transform = Transform::kHadamard;
  std::optional<Estimator> estimator;
  std::optional<double> kappa;
};

SideScheme make_side(int bits, const Options& options) {
  SideScheme side;
  side.bits = bits;
  if (bits == kUnquantizedBits) return side;
  if (options.kappa) {
    side.estimator = Estimator::kClip;
    side.kappa = *options.kappa;
  } else if (options.estimator) {
    side.estimator = *options.estimator;
  } else if (bits == 1) {
    side.estimator = Estimator::kClip;
    side.kappa = options.transform == Transform::kHadamard ? kOneBitKappa : kOneBitKappaUnrotated;
  }
  return side;
}

int parse_bits(std::string_view digits, std::string_view text) {
  int bits = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), bits);
  const bool in_range = (bits >= kMinBits && bits <= kMaxBits) || bits == kUnquantizedBits;
  if (error != std::errc() || end != digits.data() + digits.size() || !in_range) {
    fail(
        "scheme '{}': '{}' is not a number of bits; use 1 to 8, or 16 for a side that is not "
        "quantized",
        text, digits);
  }
  return bits;
}

double parse_kappa(std::string_view value, std::string_view text) {
  double kappa = 0.0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), kappa);
  if (error != std::errc() || end != value.data() + value.size() || !(kappa > 0.0) || kappa > 1e6) {
    fail("scheme '{}': kappa wants a positive number, not '{}'", text, value);
  }
  return kappa;
}

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  std::size_t begin = 0;
  while ((begin = text.find_first_not_of(" \t", begin)) != std::string_view::npos) {
    const std::size_t end = std::min(text.find_first_of(" \t", begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern.front() == '*') {
    for (std::size_t skip = 0; skip <= name.size(); ++skip) {
      if (matches(pattern.substr(1), name.substr(skip))) return true;
    }
    return false;
  }
  return !name.empty() && pattern.front() == name.front() &&
         matches(pattern.substr(1), name.substr(1));
}

}  // namespace

LinearScheme LinearScheme::parse(std::string_view text) {
  const auto words = split_words(text);
  if (words.size() == 1 && words[0] == "none") return {};
  const std::size_t a = words.empty() ? std::string_view::npos : words[0].find('a');
  if (words.empty() || words[0].front() != 'w' || a == std::string_view::npos) {
    fail(
        "scheme '{}' is not 'none' or of the form w4a4 [hadamard|none] [trust|clip|ste] "
        "[kappa=K]",
        text);
  }
  const int weight_bits = parse_bits(words[0].substr(1, a - 1), text);
  const int activation_bits = parse_bits(words[0].substr(a + 1), text);
  Options options;
  for (std::size_t i = 1; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (word == "hadamard") {
      options.transform = Transform::kHadamard;
    } else if (word == "none") {
      options.transform = Transform::kNone;
    } else if (word == "trust") {
      options.estimator = Estimator::kTrust;
    } else if (word == "clip") {
      options.estimator = Estimator::kClip;
    } else if (word == "ste") {
      options.estimator = Estimator::kSte;
    } else if (word.starts_with("kappa=")) {
      options.kappa = parse_kappa(word.substr(6), text);
    } else {
      fail("scheme '{}': '{}' is none of hadamard, none, trust, clip, ste, kappa=K", text, word);
    }
  }
  if (options.kappa && options.estimator && *options.estimator != Estimator::kClip) {
    fail("scheme '{}': kappa belongs to the clip estimator only", text);
  }
  LinearScheme scheme;
  scheme.weight = make_side(weight_bits, options);
  scheme.activation = make_side(activation_bits, options);
  if (scheme.quantized()) scheme.transform = options.transform;
  return scheme;
}

std::string LinearScheme::to_string() const {
  if (!quantized()) return "none";
  const std::string base = fmt::format("w{}a{}", weight.bits, activation.bits) +
                           (transform == Transform::kNone ? " none" : "");
  // The shortest suffix that parses back to the same value.
  const SideScheme& side = weight.quantized() ? weight : activation;
  for (const std::string& suffix : {std::string(), std::string(" trust"), std::string(" clip"),
                                    std::string(" ste"), fmt::format(" kappa={}", side.kappa)}) {
    if (parse(base + suffix) == *this) return base + suffix;
  }
  fail("the scheme {} has sides with unlike estimators and no text form", base);
}

Scheme Scheme::parse(std::string_view base, const std::vector<std::string>& overrides) {
  Scheme scheme(LinearScheme::parse(base));
  for (const std::string& text : overrides) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      fail(
          "layer override '{}' is not of the form pattern=scheme, such as "
          "blocks.3.mlp.down=w8a8",
          text);
    }
    scheme.overrides_.emplace_back(text.substr(0, equals),
                                   LinearScheme::parse(std::string_view(text).substr(equals + 1)));
  }
  return scheme;
}

LinearScheme Scheme::for_layer(std::string_view name, LinearScheme fallback) const {
  for (const auto& [pattern, scheme] : overrides_) {
    if (matches(pattern, name)) fallback = scheme;
  }
  return fallback;
}

std::vector<std::string> Scheme::overrides() const {
  std::vector<std::string> texts;
  for (const auto& [pattern, scheme] : overrides_) {
    texts.push_back(pattern + "=" + scheme.to_string());
  }
  return texts;
}

void Scheme::check_overrides(const std::vector<std::string>& layer_names) const {
  for (const auto& [pattern, scheme] : overrides_) {
    bool used = false;
    for (const std::string& name : layer_names) used = used || matches(pattern, name);
    if (!used) {
      fail("layer override '{}' matches no layer; names are like {}", pattern,
           layer_names.empty() ? "blocks.0.mlp.down" : layer_names.front());
    }
  }
}

std::string Scheme::to_string() const {
  if (overrides_.empty()) return base_.to_string();
  return fmt::format("{} (+{} layer override{})", base_.to_string(), overrides_.size(),
                     overrides_.size() == 1 ? "" : "s");
}

}  // namespace quest
