// Loss and gradients of a trained Llama.
#include "model/backward.h"

#include <algorithm>

namespace quest {
namespace {

// Whether the head's product is the first to write the embedding's gradient.
bool head_sets_embedding(const Llama<QuantLinear>& model) {
  return model.head().gradient().data == model.d_embedding().data;
}

// Zeroes the parameter gradients that are sums over rows: those of norms and of the embedding.
void zero_sums(Backend& backend, const Llama<QuantLinear>& model) {
  if (!head_sets_embedding(model)) backend.zero(model.d_embedding());
  for (const Block<QuantLinear>& block : model.blocks()) {
    backend.zero(block.d_attn_norm);
    backend.zero(block.d_mlp_norm);
  }
  backend.zero(model.d_final_norm());
}

// Head and loss in chunks of rows; the rows of d_final are set to the gradient of a.final_x.
void head_loss(Backend& backend, const Llama<QuantLinear>& model, const Activations& a,
               Tensor targets, float loss_scale, Tensor d_final, const GradientOptions& options) {
  const std::int64_t rows = a.shape.rows();
  GradientOptions chunk_options = options;
  for (std::int64_t begin = 0; begin < rows; begin += a.head.rows) {
    const std::int64_t end = std::min(begin + a.head.rows, rows);
    LinearInput input;
    const Tensor logits = model.logits(backend, a, begin, end - begin, &input);
    const Tensor d_logits = a.head.d_logits.rows_slice(0, end - begin);
    backend.cross_entropy(a.losses.rows_slice(begin, end), a.correct.rows_slice(begin, end),
                          d_logits, logits, targets.rows_slice(begin, end), loss_scale);
    const Tensor d_rotated = scratch_view(a.scratch.d_rotated, end - begin, d_final.cols());
    model.head().backward(backend, d_final.rows_slice(begin, end), d_logits, input, d_rotated,
                          chunk_options);
    chunk_options.weights = Write::kAdd;
  }
}

// Where the gradient of the residual stream is rounded to the compute type; null if it need not be.
Tensor rounded_residual(const BackwardScratch& scratch) {
  return scratch.d_output.data == scratch.d_residual.data ? Tensor() : scratch.d_output;
}

void mlp_backward(Backend& backend, const Llama<QuantLinear>& model, std::int64_t layer,
                  const Activations& a, const GradientOptions& options) {
  const ModelConfig& c = model.config();
  const Block<QuantLinear>& block = model.blocks()[static_cast<std::size_t>(layer)];
  const LayerActivations& s = a.slot(layer);
  const BackwardScratch& scratch = a.scratch;
  const bool remake = a.shape.recompute == Recompute::kNorm;
  const std::int64_t rows = a.shape.rows();
  if (remake) model.fill_down_in(backend, layer, s);
  const Tensor d_hidden = scratch_view(scratch.d_wide, rows, c.hidden);
  block.down.backward(backend, d_hidden, scratch.d_output, s.down_in,
                      scratch_view(scratch.d_rotated, rows, c.hidden), options);
  const Tensor gate = s.gate_up.columns(0, c.hidden);
  const Tensor up = s.gate_up.columns(c.hidden, 2 * c.hidden);
  backend.swiglu_backward(gate, up, d_hidden, gate, up);  // in place: gate_up becomes its gradient
  if (remake) model.fill_gate_up_in(backend, layer, s);
  const Tensor d_x = scratch_view(scratch.d_wide, rows, c.width);
  block.gate_up.backward(backend, d_x, s.gate_up, s.gate_up_in,
                         scratch_view(scratch.d_rotated, rows, c.width), options);
  backend.rmsnorm_backward(scratch.d_residual, rounded_residual(scratch), block.d_mlp_norm, d_x,
                           s.mid_residual, block.mlp_norm, s.mlp_rstd);
}

void attention_backward(Backend& backend, const Llama<QuantLinear>& model, std::int64_t layer,
                        const Activations& a, const GradientOptions& options) {
  const ModelConfig& c = model.config();
  const Block<QuantLinear>& block = model.blocks()[static_cast<std::size_t>(layer)];
  const LayerActivations& s = a.slot(layer);
  const PassShape& shape = a.shape;
  const BackwardScratch& scratch = a.scratch;
  const std::int64_t rows = shape.rows();
  const Tensor d_out = scratch_view(scratch.d_wide, rows, c.query_width());
  block.out.backward(backend, d_out, scratch.d_output, s.out_in,
                     scratch_view(scratch.d_rotated, rows, c.query_width()), options);
  const std::int64_t q_end = c.query_width();
  const std::int64_t k_end = q_end + c.kv_width();
  const std::int64_t v_end = c.qkv_width();
  const Tensor d_qkv = scratch.d_qkv;
  backend.attention_backward(
      d_qkv.columns(0, q_end), d_qkv.columns(q_end, k_end), d_qkv.columns(k_end, v_end), d_out,
      s.qkv.columns(0, q_end), s.qkv.columns(q_end, k_end), s.qkv.columns(k_end, v_end), s.attn_out,
      s.log_sums,
      {shape.batch, shape.length, shape.length, shape.length, c.heads, c.kv_heads, c.head_dim});
  backend.rope(d_qkv.columns(0, k_end), model.rope_cos(), model.rope_sin(), c.rope_layout, 0,
               shape.length, true);
  if (shape.recompute == Recompute::kNorm) model.fill_qkv_in(backend, layer, s, false);
  const Tensor d_x = scratch_view(scratch.d_wide, rows, c.width);
  block.qkv.backward(backend, d_x, d_qkv, s.qkv_in, scratch_view(scratch.d_rotated, rows, c.width),
                     options);
  backend.rmsnorm_backward(scratch.d_residual, rounded_residual(scratch), block.d_attn_norm, d_x,
                           s.residual, block.attn_norm, s.attn_rstd);
}

}  // namespace

void forward_backward(Backend& backend, const Llama<QuantLinear>& model, Activations& a,
                      Tensor tokens, Tensor targets, float loss_scale,
                      const GradientOptions& options, std::vector<LayerError>* errors) {
  KvCache pass_through;
  model.forward(backend, tokens, a, pass_through, errors);

  if (options.weights == Write::kSet) zero_sums(backend, model);
  const BackwardScratch& scratch = a.scratch;
  const Tensor d_final = scratch_view(scratch.d_wide, a.shape.rows(), model.config().width);
  head_loss(backend, model, a, targets, loss_scale, d_final, options);
  backend.zero(scratch.d_residual);
  backend.rmsnorm_backward(scratch.d_residual, rounded_residual(scratch), model.d_final_norm(),
                           d_final, a.last_residual, model.final_norm(), a.final_rstd);
  for (std::int64_t layer = model.config().layers - 1; layer >= 0; --layer) {
    // The last block's values still lie where forward left them.
    const bool last = layer + 1 == model.config().layers;
    if (a.shape.recompute == Recompute::kBlock && !last) model.remake_block(backend, layer, a);
    mlp_backward(backend, model, layer, a, options);
    attention_backward(backend, model, layer, a, options);
  }
  backend.embedding_backward(model.d_embedding(), scratch.d_residual, tokens);
}

std::int64_t count_rounding_keys(const Llama<QuantLinear>& model, const Activations& a) {
  const std::int64_t chunks = (a.shape.rows() + a.head.rows - 1) / a.head.rows;
  std::int64_t products = model.head().integer_products() * chunks;
  for (const Block<QuantLinear>& block : model.blocks()) {
    products += block.qkv.integer_products() + block.out.integer_products() +
                block.gate_up.integer_products() + block.down.integer_products();
  }
  return 2 * products;  // each has two gradients
}

void forward_loss(Backend& backend, const Llama<QuantLinear>& model, Activations& a, Tensor tokens,
                  Tensor targets) {
  KvCache pass_through;
  model.losses(backend, a, tokens, targets, pass_through);
}

void finish_gradients(Backend& backend, const Llama<QuantLinear>& model) {
  for (const Block<QuantLinear>& block : model.blocks()) {
    block.qkv.finish_gradient(backend);
    block.out.finish_gradient(backend);
    block.gate_up.finish_gradient(backend);
    block.down.finish_gradient(backend);
  }
  if (model.config().tied_head && !head_sets_embedding(model)) {
    model.head().add_finished_gradient(backend, model.d_embedding());
  } else {
    model.head().finish_gradient(backend);
  }
}

}  // namespace quest
