// From settings to the library's types: presets, model shape, scheme, compute type.
#include "apps/model_settings.h"

#include <algorithm>
#include <map>

#include "apps/text.h"
#include "core/error.h"

namespace quest::app {
namespace {

constexpr std::int64_t kPublishedSeqLen = 512;
// The learning rates of the published runs; the small presets keep the default.
const std::map<std::string, double> kPublishedLr = {{"30M", 1.2e-3},  {"50M", 1.2e-3},
                                                    {"100M", 6e-4},   {"200M", 3e-4},
                                                    {"430M", 1.5e-4}, {"800M", 7.5e-5}};

// What the library refuses about a value of the command line or config file is wrong usage.
template <typename Action>
auto as_usage(Action action) {
  try {
    return action();
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
}

}  // namespace

std::vector<Assignment> model_preset(const std::string& name) {
  const std::vector<std::string> names = ModelConfig::preset_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    throw UsageError(fmt::format("there is no preset '{}'; use {}", name, alternatives(names)));
  }
  // The vocabulary comes from the tokenizer; kv_heads, head_dim and hidden follow from the shape.
  const ModelConfig config = ModelConfig::preset(name, 1);
  const std::string origin = "preset " + name;
  std::vector<Assignment> assignments = {{"model.layers", config.layers, origin},
                                         {"model.width", config.width, origin},
                                         {"model.heads", config.heads, origin}};
  if (const auto lr = kPublishedLr.find(name); lr != kPublishedLr.end()) {
    assignments.push_back({"train.lr", lr->second, origin});
    assignments.push_back({"train.seq_len", kPublishedSeqLen, origin});
  }
  return assignments;
}

ModelConfig model_config(const TrainSettings& settings, std::int64_t tokenizer_vocab) {
  const TrainSettings::Model& model = settings.model;
  if (model.vocab != 0 && model.vocab < tokenizer_vocab) {
    throw UsageError(fmt::format("model.vocab = {} is less than the {} tokens of the tokenizer",
                                 model.vocab, tokenizer_vocab));
  }
  if (model.head_dim == 0 && model.width % model.heads != 0) {
    throw UsageError(
        fmt::format("model.width = {} is not a multiple of model.heads = {}; change one of them or "
                    "set model.head_dim",
                    model.width, model.heads));
  }
  const std::int64_t derived_hidden = ModelConfig::published_hidden(model.width);
  if (model.hidden == 0 && derived_hidden > kMostInputs) {
    throw UsageError(
        fmt::format("model.width = {} gives a hidden width of {}, but {} is the most; set "
                    "model.hidden or a smaller width",
                    model.width, derived_hidden, kMostInputs));
  }
  ModelConfig config;
  config.layers = model.layers;
  config.width = model.width;
  config.heads = model.heads;
  config.kv_heads = model.kv_heads != 0 ? model.kv_heads : model.heads;
  config.head_dim = model.head_dim != 0 ? model.head_dim : model.width / model.heads;
  config.hidden = model.hidden != 0 ? model.hidden : derived_hidden;
  config.vocab = model.vocab != 0 ? model.vocab : tokenizer_vocab;
  config.max_positions = settings.train.seq_len;
  config.tied_head = model.tied_head;
  config.rope_layout = model.rope_layout == "half" ? RopeLayout::kHalf : RopeLayout::kInterleaved;
  config.rope_theta = model.rope_theta;
  config.norm_epsilon = static_cast<float>(model.norm_eps);
  as_usage([&] { config.validate(); });
  return config;
}

Scheme model_scheme(const TrainSettings& settings, const ModelConfig& config) {
  return as_usage([&] {
    Scheme scheme = Scheme::parse(settings.scheme.base, settings.scheme.layers);
    scheme.check_overrides(layer_names(config));
    return scheme;
  });
}

DType compute_dtype(const TrainSettings& settings) {
  return settings.run.dtype == "bf16" ? DType::kBF16 : DType::kF32;
}

}  // namespace quest::app
