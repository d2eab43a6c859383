// Llama: the memory of a pass, and what of it backward keeps.
#include <algorithm>

#include "model/llama.h"

namespace quest {
namespace {

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
    // Without backward nobody reads the block's input again, and its output takes the same place.
    slot.mid_residual =
        shape.backward ? arena.take({rows, config.width}, DType::kF32) : slot.residual;
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
  a.last_residual =
      shape.backward ? arena.take({rows, config_.width}, DType::kF32) : a.slots.front().residual;
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

template Activations Llama<QuantLinear>::make_activations(Arena& arena,
                                                          const PassShape& shape) const;
template Activations Llama<PackedLinear>::make_activations(Arena& arena,
                                                           const PassShape& shape) const;

}  // namespace quest
