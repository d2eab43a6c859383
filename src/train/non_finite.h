// Finding where NaN or infinity entered a training step.
#pragma once

#include <string>

#include "model/llama.h"

namespace quest {

/// Runs the forward pass on `tokens` again and names the first place that holds a NaN or infinity:
/// a weight, the output of a layer, or, when all of those are finite, a gradient that lies in the
/// model now. For the error message of a run that diverged; slow.
std::string find_non_finite(Backend& backend, const Llama<QuantLinear>& model, Activations& a,
                            Tensor tokens);

}  // namespace quest
