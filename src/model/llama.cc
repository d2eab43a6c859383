// Llama: memory layout and the forward pass.
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

// A linear layer's input in the compute type: its own memory where backward or a dense product
// reads it later, else a part of `shared`.
template <typename Linear>
LinearInput take_linear_input(const Linear& linear, Arena& arena, Tensor shared,
                              const PassShape& shape, DType compute) {
  const bool own = shape.backward && linear.reads_dense_input();
  const Tensor x = own ? arena.take({shape.rows(), linear.columns()}, compute)
                       : scratch_view(shared, shape.rows(), linear.columns());
  return linear.take_input(arena, x, shape.rows(), shape.backward);
}

// Takes the parts of a block's slot for which `wanted(part's recompute level)` holds: the least
// saving at which the part is not kept.
template <typename Linear, typename Wanted>
void take_layer(LayerActivations& slot, const ModelConfig& config, const Block<Linear>& block,
                Arena& arena, Tensor shared, const PassShape& shape, DType compute, Wanted wanted) {
  const std::int64_t rows = shape.rows();
  if (wanted(Recompute::kNone)) slot.residual = arena.take({rows, config.width}, DType::kF32);
  if (wanted(Recompute::kBlock)) {
    slot.attn_rstd = arena.take({rows}, DType::kF32);
    slot.qkv = arena.take({rows, config.qkv_width()}, compute);
    slot.log_sums = arena.take({shape.batch, config.heads, shape.length}, DType::kF32);
    slot.attn_out = arena.take({rows, config.query_width()}, compute);
    slot.out_in = block.out.take_input(arena, slot.attn_out, rows, shape.backward);
    slot.mid_residual = arena.take({rows, config.width}, DType::kF32);
    slot.mlp_rstd = arena.take({rows}, DType::kF32);
    slot.gate_up = arena.take({rows, 2 * config.hidden}, compute);
  }
  if (wanted(Recompute::kNorm)) {
    slot.qkv_in = take_linear_input(block.qkv, arena, shared, shape, compute);
    slot.gate_up_in = take_linear_input(block.gate_up, arena, shared, shape, compute);
    slot.down_in = take_linear_input(block.down, arena, shared, shape, compute);
  }
}

// Whether a pass keeps a part of the slots whose level is `level` (see take_layer).
bool keeps(const PassShape& shape, Recompute level) {
  if (!shape.backward) return false;
  switch (shape.recompute) {
    case Recompute::kNone:
      return true;
    case Recompute::kNorm:
      return level != Recompute::kNorm;
    case Recompute::kBlock:
      break;
  }
  return level == Recompute::kNone;
}

// Whether `holds` is true of any linear layer inside the blocks.
template <typename Linear, typename Predicate>
bool any_linear(const std::vector<Block<Linear>>& blocks, Predicate holds) {
  return std::any_of(blocks.begin(), blocks.end(), [&](const Block<Linear>& block) {
    return holds(block.qkv) || holds(block.out) || holds(block.gate_up) || holds(block.down);
  });
}

BackwardScratch take_scratch(const ModelConfig& config, Arena& arena, std::int64_t rows,
                             DType compute, bool rotates) {
  const std::int64_t widest = std::max({config.width, config.query_width(), config.hidden});
  BackwardScratch scratch;
  scratch.d_residual = arena.take({rows, config.width}, DType::kF32);
  scratch.d_output =
      compute == DType::kF32 ? scratch.d_residual : arena.take({rows, config.width}, compute);
  scratch.d_wide = arena.take({rows * widest}, compute);
  if (rotates) scratch.d_rotated = arena.take({rows * widest}, compute);
  scratch.d_qkv = arena.take({rows, config.qkv_width()}, compute);
  return scratch;
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

template <typename Linear>
Activations Llama<Linear>::make_activations(Arena& arena, const PassShape& shape) const {
  const std::int64_t rows = shape.rows();
  const std::int64_t widest = std::max(config_.width, config_.hidden);
  Activations a;
  a.shape = shape;
  const bool shares = !shape.backward || any_linear(blocks_, [](const Linear& linear) {
    return !linear.reads_dense_input();
  });
  const Tensor shared = shares ? arena.take({rows * widest}, compute_) : Tensor();
  // What is not kept is the same memory in all slots, laid out by each layer's own forms; without
  // backward it begins with the residual, which one layer leaves there for the next.
  a.slots.resize(blocks_.size());
  const std::size_t first = arena.mark();
  std::size_t end = first;
  const auto take = [&](std::size_t layer, bool kept) {
    take_layer(a.slots[layer], config_, blocks_[layer], arena, shared, shape, compute_,
               [&](Recompute level) { return keeps(shape, level) == kept; });
  };
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    arena.rewind(first);
    take(layer, false);
    end = std::max(end, arena.mark());
  }
  arena.take({static_cast<std::int64_t>(end - arena.mark())}, DType::kU8);
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) take(layer, true);
  a.last_residual = arena.take({rows, config_.width}, DType::kF32);
  a.final_rstd = arena.take({rows}, DType::kF32);
  a.final_x = arena.take({rows, config_.width}, compute_);
  a.losses = arena.take({rows}, DType::kF32);
  a.correct = arena.take({rows}, DType::kU8);
  a.error_sums = arena.take({3}, DType::kF64);

  a.head.rows = head_chunk_rows(config_, rows);
  a.head.input = head_[0].take_input(arena, scratch_view(a.final_x, a.head.rows, config_.width),
                                     a.head.rows, shape.backward);
  a.head.logits = arena.take({a.head.rows, config_.vocab}, DType::kF32);
  if (shape.backward) {
    // In the memory of the logits: each row of bf16 in the first half of its row.
    a.head.d_logits =
        Tensor(a.head.logits.data, a.head.logits.shape, compute_, a.head.logits.place);
    a.head.d_logits.row_stride =
        config_.vocab * static_cast<std::int64_t>(sizeof(float) / size_bytes(compute_));
    const auto rotates = [](const Linear& linear) { return linear.quantizes_input(); };
    a.scratch = take_scratch(config_, arena, rows, compute_,
                             rotates(head_[0]) || any_linear(blocks_, rotates));
  }
  return a;
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
void Llama<Linear>::fill_tables(Backend& backend, std::int64_t positions) const {
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
  backend.synchronize();
  filled_positions_ = end;
}

template <typename Linear>
void Llama<Linear>::project_qkv(Backend& backend, std::int64_t layer, const LayerActivations& s,
                                const PassShape& shape, const KvCache& cache) const {
  const Linear& qkv = blocks_[static_cast<std::size_t>(layer)].qkv;
  const RopeLayout layout = config_.rope_layout;
  const std::int64_t turned = config_.query_width() + config_.kv_width();
  if (!cache.keeps()) {
    qkv.multiply_rope(backend, s.qkv, s.qkv_in,
                      {rope_cos_, rope_sin_, layout, shape.length, turned});
    return;
  }
  qkv.multiply(backend, s.qkv, s.qkv_in, Write::kSet);
  for (const SequenceSpan& span : cache.spans()) {
    const Tensor rows = s.qkv.rows_slice(span.first_row, span.first_row + span.count);
    backend.rope(rows.columns(0, turned), rope_cos_, rope_sin_, layout, span.position, span.count,
                 false);
  }
}

template <typename Linear>
void Llama<Linear>::attend(Backend& backend, std::int64_t layer, const LayerActivations& s,
                           const PassShape& shape, const KvCache& cache) const {
  const ModelConfig& c = config_;
  const std::int64_t q_end = c.query_width();
  const std::int64_t k_end = q_end + c.kv_width();
  const Tensor q = s.qkv.columns(0, q_end);
  const Tensor k = s.qkv.columns(q_end, k_end);
  const Tensor v = s.qkv.columns(k_end, c.qkv_width());
  if (!cache.keeps()) {
    backend.attention(
        s.attn_out, s.log_sums, q, k, v,
        {shape.batch, shape.length, shape.length, shape.length, c.heads, c.kv_heads, c.head_dim});
    return;
  }
  cache.append(backend, layer, k, v);
  backend.cached_attention(s.attn_out, q, cache.keys(layer), cache.values(layer), cache.spans(),
                           {c.heads, c.kv_heads, c.head_dim});
}

template <typename Linear>
void Llama<Linear>::fill_qkv_in(Backend& backend, std::int64_t layer, const LayerActivations& s,
                                bool keep_x) const {
  const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
  block.qkv.forms().fill_normalized(
      backend, s.qkv_in, {s.attn_rstd, s.residual, block.attn_norm, config_.norm_epsilon}, keep_x);
}

template <typename Linear>
void Llama<Linear>::fill_gate_up_in(Backend& backend, std::int64_t layer, const LayerActivations& s,
                                    bool keep_x) const {
  const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
  block.gate_up.forms().fill_normalized(
      backend, s.gate_up_in, {s.mlp_rstd, s.mid_residual, block.mlp_norm, config_.norm_epsilon},
      keep_x);
}

template <typename Linear>
void Llama<Linear>::fill_down_in(Backend& backend, std::int64_t layer, const LayerActivations& s,
                                 bool keep_x) const {
  const Block<Linear>& block = blocks_[static_cast<std::size_t>(layer)];
  block.down.forms().fill_gated(backend, s.down_in, s.gate_up.columns(0, config_.hidden),
                                s.gate_up.columns(config_.hidden, 2 * config_.hidden), keep_x);
}

template <typename Linear>
void Llama<Linear>::attention_half(Backend& backend, std::int64_t layer, const LayerActivations& s,
                                   const PassShape& shape, const KvCache& cache,
                                   bool keep_x) const {
  fill_qkv_in(backend, layer, s, keep_x);
  project_qkv(backend, layer, s, shape, cache);
  attend(backend, layer, s, shape, cache);
  backend.copy(s.mid_residual, s.residual);
  blocks_[static_cast<std::size_t>(layer)].out.forward(backend, s.mid_residual, s.out_in,
                                                       Write::kAdd);
}

template <typename Linear>
void Llama<Linear>::gate_up(Backend& backend, std::int64_t layer, const LayerActivations& s,
                            bool keep_x) const {
  fill_gate_up_in(backend, layer, s, keep_x);
  blocks_[static_cast<std::size_t>(layer)].gate_up.multiply(backend, s.gate_up, s.gate_up_in,
                                                            Write::kSet);
}

template <typename Linear>
void Llama<Linear>::remake_block(Backend& backend, std::int64_t layer, const Activations& a) const {
  const LayerActivations& s = a.slot(layer);
  attention_half(backend, layer, s, a.shape, KvCache(), false);
  gate_up(backend, layer, s, false);
  fill_down_in(backend, layer, s, false);
}

template <typename Linear>
void Llama<Linear>::forward(Backend& backend, Tensor tokens, Activations& a, KvCache& cache,
                            std::vector<LayerError>* errors) const {
  const ModelConfig& c = config_;
  const auto note_error = [&](std::int64_t layer, const char* name, const Linear& linear,
                              const LinearInput& input) {
    if (errors == nullptr) return;
    errors->push_back({"blocks." + std::to_string(layer) + "." + name,
                       linear.weight_error(backend, a.error_sums),
                       linear.input_error(backend, input, a.error_sums)});
  };

  fill_tables(backend, cache.keeps() ? cache.pass_end() : a.shape.length);
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
    fill_down_in(backend, layer, s, keep_x);
    const Tensor next = a.residual(layer + 1, c.layers);
    backend.copy(next, s.mid_residual);
    block.down.multiply(backend, next, s.down_in, Write::kAdd);
    note_error(layer, "mlp.down", block.down, s.down_in);
  }
  cache.end_pass();
  backend.rmsnorm(a.final_x, a.final_rstd, a.last_residual, final_norm_, c.norm_epsilon);
}

template <typename Linear>
Tensor Llama<Linear>::logits(Backend& backend, const Activations& a, std::int64_t begin,
                             std::int64_t rows, LinearInput* input) const {
  const LinearInput chunk = a.head.input.with(a.final_x.rows_slice(begin, begin + rows));
  const Tensor out = a.head.logits.rows_slice(0, rows);
  head_[0].forward(backend, out, chunk, Write::kSet);
  if (input != nullptr) *input = chunk;
  return out;
}

template <typename Linear>
void Llama<Linear>::losses(Backend& backend, Activations& a, Tensor tokens, Tensor targets,
                           KvCache& cache) const {
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
