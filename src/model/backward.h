// Loss and gradients of a trained Llama: the forward list in reverse.
#pragma once

#include "model/llama.h"

namespace quest {

/// Forward and backward of one micro-batch. tokens and targets i32 [B * T]; gradients (= or +=)
/// those of loss_scale * sum of the rows' losses (for a mean over all micro-batches, pass 1 / all
/// tokens). `a.losses` and `a.correct` hold the rows' results. Weights must be prepared; call
/// `finish_gradients` after the last micro-batch.
void forward_backward(Backend& backend, const Llama<QuantLinear>& model, Activations& a,
                      Tensor tokens, Tensor targets, float loss_scale,
                      const GradientOptions& options, std::vector<LayerError>* errors = nullptr);

/// The keys that it takes from `GradientOptions::rounding`.
std::int64_t count_rounding_keys(const Llama<QuantLinear>& model, const Activations& a);

/// Forward alone: `a.losses` and `a.correct` of one batch, computed exactly as in training.
void forward_loss(Backend& backend, const Llama<QuantLinear>& model, Activations& a, Tensor tokens,
                  Tensor targets);

/// Masks and rotates the summed weight gradients of all linear layers: once a step.
void finish_gradients(Backend& backend, const Llama<QuantLinear>& model);

}  // namespace quest
