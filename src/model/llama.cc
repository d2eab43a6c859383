// Llama: its weights and the forward pass.
#include "model/llama.h"

#include <algorithm>
#include <cmath>

namespace quest {
namespace {

// Positions of the rotary tables that the first pass fills at least.
constexpr std::int64_t kFirstPositions = 256;

// Takes the same shape from the parameters' and, where the model trains, the gradients' arena.
struct Weight {
  Tensor value;
  Tensor gradient;
};

Weight take_weight(ModelArenas& arenas, Shape shape, bool trains) {
  return {arenas.parameters.take(shape, DType::kF32),
          trains ? arenas.gradients.take(shape, DType::kF32) : Tensor()};
}

// next = residual, where they are not the same memory.
void carry(Backend& backend, Tensor next, Tensor residual) {
  if (next.data != residual.data) backend.copy(next, residual);
}

std::vector<LinearScheme> part_schemes(const LinearLayout& layout, const Scheme& scheme) {
  std::vector<LinearScheme> schemes;
  for (const LinearPart& part : layout.parts) schemes.push_back(scheme.for_layer(part.name));
  return schemes;
}

QuantLinear make_linear(const LinearLayout& layout, const Scheme& scheme, DType compute,
                        bool trains, ModelArenas& arenas) {
  std::int64_t rows = 0;
  for (const LinearPart& part : layout.parts) rows += part.rows;
  const Weight weight = take_weight(arenas, {rows, layout.columns}, trains);
  return QuantLinear(layout, part_schemes(layout, scheme), compute, trains, weight.value,
                     weight.gradient, arenas.prepared);
}

Block<QuantLinear> make_block(const ModelConfig& config, std::int64_t layer, const Scheme& scheme,
                              DType compute, bool trains, ModelArenas& arenas) {
  const Weight attn_norm = take_weight(arenas, {config.width}, trains);
  auto qkv = make_linear(qkv_layout(config, layer), scheme, compute, trains, arenas);
  auto out = make_linear(out_layout(config, layer), scheme, compute, trains, arenas);
  const Weight mlp_norm = take_weight(arenas, {config.width}, trains);
  auto gate_up = make_linear(gate_up_layout(config, layer), scheme, compute, trains, arenas);
  auto down = make_linear(down_layout(config, layer), scheme, compute, trains, arenas);
  return {attn_norm.value, attn_norm.gradient, std::move(qkv),     std::move(out),
          mlp_norm.value,  mlp_norm.gradient,  std::move(gate_up), std::move(down)};
}

}  // namespace

void EmbeddingTable::look_up(Backend& backend, Tensor x, Tensor tokens) const {
  if (dense) {
    backend.embedding(x, tokens, dense);
  } else {
    backend.packed_embedding(x, tokens, packed, block);
  }
}

template <>
Llama<QuantLinear>::Llama(const ModelConfig& config, const Scheme& scheme, DType compute,
                          bool trains, ModelArenas& arenas)
    : config_(config), scheme_(scheme), compute_(compute), trains_(trains) {
  const Weight embedding = take_weight(arenas, {config.vocab, config.width}, trains);
  embedding_.dense = embedding.value;
  d_embedding_ = embedding.gradient;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    blocks_.push_back(make_block(config, layer, scheme, compute, trains, arenas));
  }
  const Weight final_norm = take_weight(arenas, {config.width}, trains);
  final_norm_ = final_norm.value;
  d_final_norm_ = final_norm.gradient;
  const Weight head =
      config.tied_head ? embedding : take_weight(arenas, {config.vocab, config.width}, trains);
  const LinearScheme head_scheme = scheme.for_layer("head", LinearScheme());
  // A quantized head sums its gradient in another domain than that of the table's rows.
  const bool apart = trains && config.tied_head && head_scheme.weight.quantized();
  const Tensor d_head = apart ? arenas.prepared.take(head.value.shape, DType::kF32) : head.gradient;
  head_.emplace_back(head_layout(config), std::vector<LinearScheme>{head_scheme}, compute, trains,
                     head.value, d_head, arenas.prepared);
  take_tables(arenas.prepared);
}

template <typename Linear>
Llama<Linear>::Llama(const ModelConfig& config, const Scheme& scheme, DType compute,
                     LlamaParts<Linear> parts, Arena& prepared)
    : config_(config),
      scheme_(scheme),
      compute_(compute),
      trains_(false),
      embedding_(parts.embedding),
      blocks_(std::move(parts.blocks)),
      final_norm_(parts.final_norm) {
  head_.push_back(std::move(parts.head));
  take_tables(prepared);
}

template <typename Linear>
void Llama<Linear>::take_tables(Arena& prepared) {
  const Shape table{config_.max_positions, config_.head_dim / 2};
  rope_cos_ = prepared.take(table, DType::kF32);
  rope_sin_ = prepared.take(table, DType::kF32);
}

template <>
void Llama<QuantLinear>::prepare_weights(Backend& backend) const {
  for (const Block<QuantLinear>& block : blocks_) {
    block.qkv.prepare_weights(backend);
    block.out.prepare_weights(backend);
    block.gate_up.prepare_weights(backend);
    block.down.prepare_weights(backend);
  }
  head_[0].prepare_weights(backend);
}

template <typename Linear>
void Llama<Linear>::prepare_positions(Backend& backend, std::int64_t positions) const {
  if (positions <= filled_positions_) return;
  // Twice as many as before, so that a text that grows by tokens comes here rarely.
  const std::int64_t begin = filled_positions_;
  const std::int64_t end =
      std::min(std::max({positions, 2 * begin, kFirstPositions}), config_.max_positions);
  const std::int64_t half = config_.head_dim / 2;
  std::vector<float> cos(static_cast<std::size_t>((end - begin) * half));
  std::vector<float> sin(cos.size());
  for (std::int64_t i = 0; i < half; ++i) {
    const double turn = std::pow(config_.rope_theta, -static_cast<double>(i) / double(half));
    for (std::int64_t position = begin; position < end; ++position) {
      const double angle = static_cast<double>(position) * turn;
      const auto index = static_cast<std::size_t>((position - begin) * half + i);
      cos[index] = static_cast<float>(std::cos(angle));
      sin[index] = static_cast<float>(std::sin(angle));
    }
  }
  backend.copy(rope_cos_.rows_slice(begin, end), view_of(cos.data(), {end - begin, half}));
  backend.copy(rope_sin_.rows_slice(begin, end), view_of(sin.data(), {end - begin, half}));
  filled_positions_ = end;
}

template <typename Linear>
Rotary Llama<Linear>::rotary(std::int64_t length) const {
  return {rope_cos_, rope_sin_, config_.rope_layout, length,
          config_.query_width() + config_.kv_width()};
}

template <typename Linear>
void Llama<Linear>::project_qkv(Backend& backend, std::int64_t layer, const LayerActivations& s,
                                const PassShape& shape, const KvCache& cache, bool keep_x) const {
  const Linear& qkv = blocks_[static_cast<std::size_t>(layer)].qkv;
  if (cache.keeps()) {
    qkv.forward(backend, s.qkv, s.qkv_in, Write::kSet, qkv_source(layer, s), keep_x);
  } else {
    fill_qkv_in(backend, layer, s, keep_x);
    qkv.multiply_rope(backend, s.qkv, s.qkv_in, rotary(shape.length));
  }
}

template <typename Linear>
void Llama<Linear>::attend(Backend& backend, std::int64_t layer, const LayerActivations& s,
                           const PassShape& shape, const KvCache& cache) const {
  const ModelConfig& c = config_;
  if (cache.keeps()) {
    cache.attend(backend, layer, s.attn_out, s.qkv, rotary(shape.length),
                 {c.heads, c.kv_heads, c.head_dim});
    return;
  }
  const std::int64_t q_end = c.query_width();
  const std::int64_t k_end = q_end + c.kv_width();
  backend.attention(
      s.attn_out, s.log_sums, s.qkv.columns(0, q_end), s.qkv.columns(q_end, k_end),
      s.qkv.columns(k_end, c.qkv_width()),
      {shape.batch, shape.length, shape.length, shape.length, c.heads, c.kv_heads, c.head_dim});
}

template <typename Linear>
MadeOf Llama<Linear>::qkv_source(std::int64_t layer, const LayerActivations& s) const {
  const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
  return RowSource::Norm{s.attn_rstd, s.residual, block.attn_norm, config_.norm_epsilon};
}

template <typename Linear>
MadeOf Llama<Linear>::gate_up_source(std::int64_t layer, const LayerActivations& s) const {
  const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
  return RowSource::Norm{s.mlp_rstd, s.mid_residual, block.mlp_norm, config_.norm_epsilon};
}

template <typename Linear>
MadeOf Llama<Linear>::down_source(const LayerActivations& s) const {
  return RowSource::Swiglu{s.gate_up.columns(0, config_.hidden),
                           s.gate_up.columns(config_.hidden, 2 * config_.hidden)};
}

template <typename Linear>
void Llama<Linear>::fill_qkv_in(Backend& backend, std::int64_t layer, const LayerActivations& s,
                                bool keep_x) const {
  const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
  block.qkv.forms().fill(backend, s.qkv_in, qkv_source(layer, s), keep_x);
}

template <typename Linear>
void Llama<Linear>::fill_gate_up_in(Backend& backend, std::int64_t layer,
                                    const LayerActivations& s) const {
  const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
  block.gate_up.forms().fill(backend, s.gate_up_in, gate_up_source(layer, s), false);
}

template <typename Linear>
void Llama<Linear>::fill_down_in(Backend& backend, std::int64_t layer,
                                 const LayerActivations& s) const {
  const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
  block.down.forms().fill(backend, s.down_in, down_source(s), false);
}

template <typename Linear>
void Llama<Linear>::attention_half(Backend& backend, std::int64_t layer, const LayerActivations& s,
                                   const PassShape& shape, const KvCache& cache,
                                   bool keep_x) const {
  project_qkv(backend, layer, s, shape, cache, keep_x);
  attend(backend, layer, s, shape, cache);
  carry(backend, s.mid_residual, s.residual);
  blocks_[static_cast<std::size_t>(layer)].out.forward(backend, s.mid_residual, s.out_in,
                                                       Write::kAdd, {}, keep_x);
}

template <typename Linear>
void Llama<Linear>::gate_up(Backend& backend, std::int64_t layer, const LayerActivations& s,
                            bool keep_x) const {
  const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
  block.gate_up.forward(backend, s.gate_up, s.gate_up_in, Write::kSet, gate_up_source(layer, s),
                        keep_x);
}

template <typename Linear>
void Llama<Linear>::remake_block(Backend& backend, std::int64_t layer, const Activations& a) const {
  const LayerActivations& s = a.slot(layer);
  attention_half(backend, layer, s, a.shape, KvCache(), false);
  gate_up(backend, layer, s, false);
  fill_down_in(backend, layer, s);
}

template <typename Linear>
void Llama<Linear>::forward(Backend& backend, Tensor tokens, Activations& a, const KvCache& cache,
                            std::vector<LayerError>* errors) const {
  const ModelConfig& c = config_;
  const auto note_error = [&](std::int64_t layer, const char* name, const Linear& linear,
                              const LinearInput& input) {
    if (errors == nullptr) return;
    errors->push_back({"blocks." + std::to_string(layer) + "." + name,
                       linear.weight_error(backend, a.error_sums),
                       linear.input_error(backend, input, a.error_sums)});
  };

  prepare_positions(backend, cache.keeps() ? cache.pass_end() : a.shape.length);
  embedding_.look_up(backend, a.residual(0, c.layers), tokens);
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
    const LayerActivations& s = a.slot(layer);
    const bool keep_x = errors != nullptr;
    attention_half(backend, layer, s, a.shape, cache, keep_x);
    note_error(layer, "attn.qkv", block.qkv, s.qkv_in);
    note_error(layer, "attn.out", block.out, s.out_in);
    gate_up(backend, layer, s, keep_x);
    note_error(layer, "mlp.gate_up", block.gate_up, s.gate_up_in);
    const Tensor next = a.residual(layer + 1, c.layers);
    carry(backend, next, s.mid_residual);
    block.down.forward(backend, next, s.down_in, Write::kAdd, down_source(s), keep_x);
    note_error(layer, "mlp.down", block.down, s.down_in);
  }
  backend.rmsnorm(a.final_x, a.final_rstd, a.last_residual, final_norm_, c.norm_epsilon);
}

template <typename Linear>
Tensor Llama<Linear>::logits(Backend& backend, const Activations& a, std::int64_t begin,
                             std::int64_t rows, LinearInput* input) const {
  const LinearInput chunk = a.head.input.with(a.final_x.rows_slice(begin, begin + rows));
  const Tensor out = a.head.logits.rows_slice(0, rows);
  head_[0].forward(backend, out, chunk, Write::kSet, {}, input != nullptr);
  if (input != nullptr) *input = chunk;
  return out;
}

template <typename Linear>
void Llama<Linear>::losses(Backend& backend, Activations& a, Tensor tokens, Tensor targets,
                           const KvCache& cache) const {
  forward(backend, tokens, a, cache);
  const std::int64_t rows = a.shape.rows();
  for (std::int64_t begin = 0; begin < rows; begin += a.head.rows) {
    const std::int64_t end = std::min(begin + a.head.rows, rows);
    backend.cross_entropy(a.losses.rows_slice(begin, end), a.correct.rows_slice(begin, end),
                          Tensor(), logits(backend, a, begin, end - begin),
                          targets.rows_slice(begin, end), 0.0f);
  }
}

template class Llama<QuantLinear>;
template class Llama<PackedLinear>;

}  // namespace quest
