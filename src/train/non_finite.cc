// The search for the first NaN or infinity, in the order of the computation.
#include "train/non_finite.h"

#include <cmath>
#include <vector>

namespace quest {
namespace {

bool all_finite(Backend& backend, Tensor tensor) {
  if (!tensor) return true;
  std::vector<float> host(static_cast<std::size_t>(tensor.numel()));
  const Tensor host_view = view_of(host.data(), {tensor.rows(), tensor.cols()});
  if (tensor.dtype == DType::kF32) {
    backend.copy(host_view, Tensor(tensor.data, host_view.shape, tensor.dtype, tensor.place));
  } else {
    std::vector<BFloat16> narrow(host.size());
    const Tensor narrow_view = view_of(narrow.data(), host_view.shape);
    backend.copy(narrow_view, Tensor(tensor.data, host_view.shape, tensor.dtype, tensor.place));
    backend.synchronize();
    for (std::size_t i = 0; i < host.size(); ++i) host[i] = to_float(narrow[i]);
  }
  backend.synchronize();
  for (const float value : host) {
    if (!std::isfinite(value)) return false;
  }
  return true;
}

// The first layer whose output is not finite; empty when all are.
std::string find_in_activations(Backend& backend, const Llama<QuantLinear>& model,
                                const Activations& a) {
  // A pass that keeps no slot a layer remembers its last layer only.
  const std::int64_t first = a.shape.backward ? 0 : model.config().layers - 1;
  for (std::int64_t layer = first; layer < model.config().layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer);
    const LayerActivations& s = a.slot(layer);
    if (a.shape.backward && a.shape.recompute == Recompute::kBlock) {
      model.remake_block(backend, layer, a);
    }
    if (layer == 0 && a.shape.backward && !all_finite(backend, s.residual)) {
      return "the embedding's output";
    }
    if (!all_finite(backend, s.qkv)) return "the output of " + block + ".attn.qkv";
    if (!all_finite(backend, s.attn_out)) return "the attention of " + block;
    // Without backward the block's output has taken the place of what attention left.
    const Tensor next = a.residual(layer + 1, model.config().layers);
    const bool kept = s.mid_residual.data != next.data;
    if (kept && !all_finite(backend, s.mid_residual)) {
      return "the output of " + block + ".attn.out";
    }
    if (!all_finite(backend, s.gate_up)) {
      return "the output of " + block + (kept ? ".mlp.gate_up" : ".attn.out or of its mlp.gate_up");
    }
    if (!all_finite(backend, next)) {
      return "the output of " + block + ".mlp.down";
    }
  }
  return all_finite(backend, a.final_x) ? "" : "the final norm's output";
}

}  // namespace

std::string find_non_finite(Backend& backend, const Llama<QuantLinear>& model, Activations& a,
                            Tensor tokens) {
  std::string found;
  model.for_each_parameter([&](const Parameter& parameter) {
    if (found.empty() && !all_finite(backend, parameter.value)) {
      found = "the weight " + parameter.name;
    }
  });
  if (!found.empty()) return found;
  KvCache pass_through;
  model.forward(backend, tokens, a, pass_through);
  found = find_in_activations(backend, model, a);
  if (!found.empty()) return found;
  // Backward runs from the last parameter to the first, so the last one found is the origin.
  model.for_each_parameter([&](const Parameter& parameter) {
    if (!all_finite(backend, parameter.gradient)) found = "the gradient of " + parameter.name;
  });
  return found.empty() ? "the head's logits or the loss" : found;
}

}  // namespace quest
