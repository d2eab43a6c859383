// Llama: the architecture, written once for every kind of linear layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/arena.h"
#include "backend/backend.h"
#include "model/activations.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/packed_linear.h"
#include "model/quant_linear.h"

namespace quest {

/// Where a model lays its tensors. Parameters and gradients are laid in the same order, so that
/// their arenas are flat arrays of equal layout.
struct ModelArenas {
  Arena parameters;  ///< f32 master weights
  Arena gradients;   ///< f32; unused where nothing is trained
  Arena prepared;    ///< codes, masks and casts of the weights
};

/// A pre-norm transformer block.
template <typename Linear>
struct Block {
  Tensor attn_norm;  ///< f32 [C]
  Tensor d_attn_norm;
  Linear qkv;
  Linear out;
  Tensor mlp_norm;  ///< f32 [C]
  Tensor d_mlp_norm;
  Linear gate_up;
  Linear down;
};

/// The quantization error of every linear layer of one pass, in the order of the forward pass.
struct LayerError {
  std::string name;  ///< "blocks.3.attn.qkv"
  QuantizationError weight;
  QuantizationError input;
};

/// The embedding table: floats, or packed codes of rotated rows.
struct EmbeddingTable {
  Tensor dense;            ///< float [V, C]; null where it is packed
  PackedRows packed;       ///< [V, C]
  std::int64_t block = 1;  ///< Hadamard block of packed rows

  /// x f32 [R, C] = the rows of tokens i32 [R].
  void look_up(Backend& backend, Tensor x, Tensor tokens) const;
};

/// Weights that exist already, for a model that only runs. All outlive it.
template <typename Linear>
struct LlamaParts {
  EmbeddingTable embedding;
  std::vector<Block<Linear>> blocks;
  Tensor final_norm;  ///< f32 [C]
  Linear head;
};

/// A Llama-type model over `Linear` (QuantLinear trains; PackedLinear runs what was trained).
template <typename Linear>
class Llama {
 public:
  /// Of QuantLinear alone: lays out all tensors; the values are set by whoever initializes or loads
  /// them. With measuring arenas this only counts memory. `compute` (f32 or bf16) is the type of
  /// high-precision operands.
  Llama(const ModelConfig& config, const Scheme& scheme, DType compute, bool trains,
        ModelArenas& arenas);

  /// A model that only runs, over the weights of `parts`; its own tables go to `prepared`.
  Llama(const ModelConfig& config, const Scheme& scheme, DType compute, LlamaParts<Linear> parts,
        Arena& prepared);

  /// The memory of a pass; with a measuring arena this only counts.
  Activations make_activations(Arena& arena, const PassShape& shape) const;

  /// Of QuantLinear alone: quantizes or casts all weights; once after every change of them.
  void prepare_weights(Backend& backend) const;

  /// Fills the rotary tables for so many positions at least: a context may be far larger than what
  /// is ever read of it. `forward` does it for its own; one that is recorded needs it done before.
  /// Passes of a backend come one after another, so no two come here at once.
  void prepare_positions(Backend& backend, std::int64_t positions) const;

  /// tokens i32 [R] to `a.final_x`. A pass-through cache makes them B sequences of T positions
  /// each; one that keeps has been told by `begin_pass` what they are. `errors`, if not null,
  /// receives each layer's quantization error (slow; for the log).
  void forward(Backend& backend, Tensor tokens, Activations& a, const KvCache& cache,
               std::vector<LayerError>* errors = nullptr) const;

  /// The inputs of the linear layers of a block that norms and SwiGLU make, from what the slot
  /// holds. `keep_x` also sets the unquantized input where only codes are read.
  void fill_qkv_in(Backend& backend, std::int64_t layer, const LayerActivations& s,
                   bool keep_x) const;
  void fill_gate_up_in(Backend& backend, std::int64_t layer, const LayerActivations& s) const;
  void fill_down_in(Backend& backend, std::int64_t layer, const LayerActivations& s) const;
  /// All that backward reads of a block, from its input alone, as `forward` with a pass-through
  /// cache made it.
  void remake_block(Backend& backend, std::int64_t layer, const Activations& a) const;

  /// a.head.logits [rows, V] of rows [begin, begin + rows) of `a.final_x`; rows <= a.head.rows.
  /// Returns the view that was written; `input` receives the head's prepared input of these rows.
  Tensor logits(Backend& backend, const Activations& a, std::int64_t begin, std::int64_t rows,
                LinearInput* input = nullptr) const;

  /// `a.losses` and `a.correct` of one batch of tokens and targets, i32 [B * T]; `cache` as above.
  void losses(Backend& backend, Activations& a, Tensor tokens, Tensor targets,
              const KvCache& cache) const;

  /// The only list of parameters: init, save, load, count and optimizer go through it.
  template <typename Visitor>
  void for_each_parameter(Visitor visit) const;

  const ModelConfig& config() const { return config_; }
  const Scheme& scheme() const { return scheme_; }
  DType compute() const { return compute_; }
  bool trains() const { return trains_; }
  const std::vector<Block<Linear>>& blocks() const { return blocks_; }
  const Linear& head() const { return head_[0]; }
  Tensor final_norm() const { return final_norm_; }
  Tensor d_final_norm() const { return d_final_norm_; }
  Tensor d_embedding() const { return d_embedding_; }
  Tensor rope_cos() const { return rope_cos_; }
  Tensor rope_sin() const { return rope_sin_; }

 private:
  void take_tables(Arena& prepared);
  // What the inputs of the linear layers of a block are made of.
  MadeOf qkv_source(std::int64_t layer, const LayerActivations& s) const;
  MadeOf gate_up_source(std::int64_t layer, const LayerActivations& s) const;
  MadeOf down_source(const LayerActivations& s) const;
  // What turns queries and keys, in sequences of so many rows.
  Rotary rotary(std::int64_t length) const;

  // From s.residual to s.qkv; queries and keys are turned where the cache keeps nothing.
  void project_qkv(Backend& backend, std::int64_t layer, const LayerActivations& s,
                   const PassShape& shape, const KvCache& cache, bool keep_x) const;
  // From s.qkv to s.attn_out: over this pass or what the cache keeps, which turns them.
  void attend(Backend& backend, std::int64_t layer, const LayerActivations& s,
              const PassShape& shape, const KvCache& cache) const;

  // From s.residual to s.mid_residual.
  void attention_half(Backend& backend, std::int64_t layer, const LayerActivations& s,
                      const PassShape& shape, const KvCache& cache, bool keep_x) const;
  // From s.mid_residual to s.gate_up.
  void gate_up(Backend& backend, std::int64_t layer, const LayerActivations& s, bool keep_x) const;

  ModelConfig config_;
  Scheme scheme_;
  DType compute_;
  bool trains_;
  EmbeddingTable embedding_;
  Tensor d_embedding_;
  std::vector<Block<Linear>> blocks_;
  Tensor final_norm_;  // f32 [C]
  Tensor d_final_norm_;
  std::vector<Linear> head_;  // exactly one; built after the tensors above
  Tensor rope_cos_;           // f32 [max_positions, D/2], filled by prepare_positions
  Tensor rope_sin_;
  mutable std::int64_t filled_positions_ = 0;
};

template <typename Linear>
template <typename Visitor>
void Llama<Linear>::for_each_parameter(Visitor visit) const {
  constexpr double kEmbeddingStd = 0.02;
  visit(
      Parameter{"model.embed_tokens.weight", embedding_.dense, d_embedding_, false, kEmbeddingStd});
  std::int64_t layer = 0;
  for (const Block<Linear>& block : blocks_) {
    const std::string prefix = "model.layers." + std::to_string(layer++) + ".";
    visit(Parameter{prefix + "input_layernorm.weight", block.attn_norm, block.d_attn_norm, false,
                    0.0});
    block.qkv.for_each_parameter(true, visit);
    block.out.for_each_parameter(true, visit);
    visit(Parameter{prefix + "post_attention_layernorm.weight", block.mlp_norm, block.d_mlp_norm,
                    false, 0.0});
    block.gate_up.for_each_parameter(true, visit);
    block.down.for_each_parameter(true, visit);
  }
  visit(Parameter{"model.norm.weight", final_norm_, d_final_norm_, false, 0.0});
  if (!config_.tied_head) head_[0].for_each_parameter(false, visit);
}

// What only one kind of linear layer has is a specialization, not a constrained member: clang 14
// would instantiate it for both.
template <>
Llama<QuantLinear>::Llama(const ModelConfig& config, const Scheme& scheme, DType compute,
                          bool trains, ModelArenas& arenas);
template <>
void Llama<QuantLinear>::prepare_weights(Backend& backend) const;

extern template class Llama<QuantLinear>;
extern template class Llama<PackedLinear>;

}  // namespace quest
