// Presets, checks and counts of model shapes.
#include "model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include "core/error.h"

namespace quest {
namespace {

constexpr double kInitStd = 0.02;

struct Preset {
  std::string_view name;
  std::int64_t layers;
  std::int64_t width;
  std::int64_t heads;
};

// nano to mini are for CPUs and for minutes; the others are the published sizes.
constexpr std::array<Preset, 9> kPresets{{{"nano", 3, 128, 2},
                                          {"micro", 4, 256, 4},
                                          {"mini", 6, 384, 3},
                                          {"30M", 6, 640, 5},
                                          {"50M", 7, 768, 6},
                                          {"100M", 8, 1024, 8},
                                          {"200M", 10, 1280, 10},
                                          {"430M", 13, 1664, 13},
                                          {"800M", 16, 2048, 16}}};

void check_positive(const char* what, std::int64_t value, std::int64_t most) {
  if (value < 1) fail("model.{} must be at least 1, not {}", what, value);
  if (value > most) fail("model.{} = {} is too large: {} is the most", what, value, most);
}

std::string block(std::int64_t layer) { return fmt::format("blocks.{}.", layer); }
std::string tensors(std::int64_t layer) { return fmt::format("model.layers.{}.", layer); }

}  // namespace

ModelConfig ModelConfig::preset(std::string_view name, std::int64_t vocab) {
  for (const Preset& preset : kPresets) {
    if (preset.name != name) continue;
    ModelConfig config;
    config.layers = preset.layers;
    config.width = preset.width;
    config.heads = preset.heads;
    config.kv_heads = preset.heads;
    config.head_dim = preset.width / preset.heads;
    config.hidden = published_hidden(preset.width);
    config.vocab = vocab;
    return config;
  }
  fail("there is no preset '{}'; choose one of {}", name, fmt::join(preset_names(), ", "));
}

std::vector<std::string> ModelConfig::preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

std::int64_t ModelConfig::published_hidden(std::int64_t width) {
  return 256 * ((8 * width / 3 + 255) / 256);
}

void ModelConfig::validate() const {
  check_positive("layers", layers, kMostLayers);
  check_positive("width", width, kMostInputs);
  check_positive("heads", heads, kMostHeads);
  check_positive("kv_heads", kv_heads, kMostHeads);
  check_positive("head_dim", head_dim, kMostInputs);
  check_positive("hidden", hidden, kMostInputs);
  check_positive("vocab", vocab, kMostVocab);
  check_positive("max_positions", max_positions, kMostPositions);
  if (heads % kv_heads != 0) {
    fail("model.heads = {} must be a multiple of model.kv_heads = {}", heads, kv_heads);
  }
  if (head_dim % 2 != 0) {
    fail("model.head_dim = {} must be even: rotary embeddings turn pairs", head_dim);
  }
  if (query_width() > kMostInputs) {
    fail("model.heads * model.head_dim = {} is too large: {} is the most", query_width(),
         kMostInputs);
  }
  if (!(rope_theta > 1.0) || !std::isfinite(rope_theta)) {
    fail("model.rope_theta must be above 1, not {}", rope_theta);
  }
  if (!(norm_epsilon > 0.0f) || !(norm_epsilon < 1.0f)) {
    fail("model.norm_eps must be between 0 and 1, not {}", norm_epsilon);
  }
}

std::int64_t ModelConfig::linear_parameters() const {
  return layers * (width * qkv_width() + query_width() * width + 3 * width * hidden);
}

std::int64_t ModelConfig::non_embedding_parameters() const {
  return linear_parameters() + (2 * layers + 1) * width;
}

std::int64_t ModelConfig::parameters() const {
  return non_embedding_parameters() + (tied_head ? 1 : 2) * vocab * width;
}

double ModelConfig::forward_flops_per_token(std::int64_t sequence_length) const {
  const double products =
      2.0 * (static_cast<double>(linear_parameters()) + static_cast<double>(vocab * width));
  // A query sees (T + 1) / 2 keys in the mean; scores and values are two products.
  const double attention = 4.0 * static_cast<double>(layers * query_width()) *
                           (static_cast<double>(sequence_length) + 1.0) / 2.0;
  return products + attention;
}

std::string architecture_difference(const ModelConfig& a, const ModelConfig& b) {
  const auto layout = [](const ModelConfig& c) {
    return c.rope_layout == RopeLayout::kInterleaved ? "interleaved" : "half";
  };
  const std::tuple<const char*, std::string, std::string> values[] = {
      {"layers", std::to_string(a.layers), std::to_string(b.layers)},
      {"width", std::to_string(a.width), std::to_string(b.width)},
      {"heads", std::to_string(a.heads), std::to_string(b.heads)},
      {"kv_heads", std::to_string(a.kv_heads), std::to_string(b.kv_heads)},
      {"head_dim", std::to_string(a.head_dim), std::to_string(b.head_dim)},
      {"hidden", std::to_string(a.hidden), std::to_string(b.hidden)},
      {"vocab", std::to_string(a.vocab), std::to_string(b.vocab)},
      {"tied_head", std::to_string(a.tied_head), std::to_string(b.tied_head)},
      {"rope_layout", layout(a), layout(b)},
      {"rope_theta", fmt::format("{}", a.rope_theta), fmt::format("{}", b.rope_theta)},
      {"norm_eps", fmt::format("{}", a.norm_epsilon), fmt::format("{}", b.norm_epsilon)}};
  for (const auto& [name, left, right] : values) {
    if (left != right) return fmt::format("{}: {} and {}", name, left, right);
  }
  return "";
}

LinearLayout qkv_layout(const ModelConfig& config, std::int64_t layer) {
  const std::string name = block(layer) + "attn.";
  const std::string tensor = tensors(layer) + "self_attn.";
  return {{{name + "q", tensor + "q_proj.weight", config.query_width()},
           {name + "k", tensor + "k_proj.weight", config.kv_width()},
           {name + "v", tensor + "v_proj.weight", config.kv_width()}},
          config.width,
          kInitStd};
}

LinearLayout out_layout(const ModelConfig& config, std::int64_t layer) {
  return {{{block(layer) + "attn.out", tensors(layer) + "self_attn.o_proj.weight", config.width}},
          config.query_width(),
          kInitStd / std::sqrt(2.0 * static_cast<double>(config.layers))};
}

LinearLayout gate_up_layout(const ModelConfig& config, std::int64_t layer) {
  const std::string name = block(layer) + "mlp.";
  const std::string tensor = tensors(layer) + "mlp.";
  return {{{name + "gate", tensor + "gate_proj.weight", config.hidden},
           {name + "up", tensor + "up_proj.weight", config.hidden}},
          config.width,
          kInitStd};
}

LinearLayout down_layout(const ModelConfig& config, std::int64_t layer) {
  return {{{block(layer) + "mlp.down", tensors(layer) + "mlp.down_proj.weight", config.width}},
          config.hidden,
          kInitStd / std::sqrt(2.0 * static_cast<double>(config.layers))};
}

LinearLayout head_layout(const ModelConfig& config) {
  return {{{"head", "lm_head.weight", config.vocab}}, config.width, kInitStd};
}

std::int64_t head_chunk_rows(const ModelConfig& config, std::int64_t rows) {
  // Bytes of f32 logits; a multiple of 32 rows suits every kernel of products.
  constexpr std::int64_t kChunkBytes = std::int64_t{256} << 20;
  constexpr std::int64_t kUnit = 32;
  const std::int64_t most = std::max(kChunkBytes / 4 / config.vocab, 2 * kUnit);
  const std::int64_t chunks = (rows + most - 1) / most;
  const std::int64_t units = (rows + kUnit * chunks - 1) / (kUnit * chunks);
  return std::min(rows, units * kUnit);
}

std::vector<std::string> layer_names(const ModelConfig& config) {
  std::vector<std::string> names;
  const auto append = [&](const LinearLayout& layout) {
    for (const LinearPart& part : layout.parts) names.push_back(part.name);
  };
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    append(qkv_layout(config, layer));
    append(out_layout(config, layer));
    append(gate_up_layout(config, layer));
    append(down_layout(config, layer));
  }
  append(head_layout(config));
  return names;
}

}  // namespace quest
