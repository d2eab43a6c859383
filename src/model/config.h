// ModelConfig: the shape of a Llama-type model, its presets and its counts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "model/limits.h"
#include "quant/scheme.h"

namespace quest {

/// The architecture, without the quantization scheme.
struct ModelConfig {
  std::int64_t layers = 0;           ///< L
  std::int64_t width = 0;            ///< C
  std::int64_t heads = 0;            ///< H
  std::int64_t kv_heads = 0;         ///< Hkv, divides H
  std::int64_t head_dim = 0;         ///< D, even
  std::int64_t hidden = 0;           ///< F
  std::int64_t vocab = 0;            ///< V
  std::int64_t max_positions = 512;  ///< the sequence length that the model is trained on
  bool tied_head = false;            ///< the head is the embedding table
  RopeLayout rope_layout = RopeLayout::kInterleaved;
  double rope_theta = 1e4;
  float norm_epsilon = 1e-5f;

  /// A published or small size by name, with the published hidden width. Throws Error that lists
  /// the names when there is no such preset.
  static ModelConfig preset(std::string_view name, std::int64_t vocab);
  static std::vector<std::string> preset_names();
  /// The published rule: 256 ceil(floor(8 C / 3) / 256).
  static std::int64_t published_hidden(std::int64_t width);

  /// Throws Error that names the first value that is wrong and what it has to be.
  void validate() const;

  std::int64_t query_width() const { return heads * head_dim; }
  std::int64_t kv_width() const { return kv_heads * head_dim; }
  /// Columns of the joined q, k, v projection.
  std::int64_t qkv_width() const { return query_width() + 2 * kv_width(); }
  /// Weights of the linear layers inside the blocks.
  std::int64_t linear_parameters() const;
  /// All weights; a tied head counts once.
  std::int64_t parameters() const;
  /// All but the embedding table and the head, as the publication counts.
  std::int64_t non_embedding_parameters() const;
  /// Multiply-adds count two: forward FLOPs of one token at sequence length T (the mean over
  /// positions), linear layers, attention and head. Backward costs twice that.
  double forward_flops_per_token(std::int64_t sequence_length) const;

  bool operator==(const ModelConfig&) const = default;
};

/// The first value in which two architectures differ, as "layers: 4 and 6"; empty when the weights
/// of one mean the same in the other. max_positions may differ.
std::string architecture_difference(const ModelConfig& a, const ModelConfig& b);

/// One row range of a block's joined linear layer: the name that schemes and users call it by, the
/// name of its tensor in Hugging Face checkpoints, and its rows.
struct LinearPart {
  std::string name;         ///< "blocks.3.mlp.down"
  std::string tensor_name;  ///< "model.layers.3.mlp.down_proj.weight"
  std::int64_t rows;
};

/// The linear layers of block `layer` that read one input: their parts in order, and that input's
/// width K.
struct LinearLayout {
  std::vector<LinearPart> parts;
  std::int64_t columns;
  double init_std;
};
LinearLayout qkv_layout(const ModelConfig& config, std::int64_t layer);
LinearLayout out_layout(const ModelConfig& config, std::int64_t layer);
LinearLayout gate_up_layout(const ModelConfig& config, std::int64_t layer);
LinearLayout down_layout(const ModelConfig& config, std::int64_t layer);
LinearLayout head_layout(const ModelConfig& config);

/// How many of `rows` rows have logits at the same time.
std::int64_t head_chunk_rows(const ModelConfig& config, std::int64_t rows);

/// The names of all layers that a scheme can address, in order.
std::vector<std::string> layer_names(const ModelConfig& config);

}  // namespace quest
