// From settings to the library's types: presets, model shape, scheme, compute type.
#pragma once

#include <string>
#include <vector>

#include "apps/settings.h"
#include "core/tensor.h"
#include "model/config.h"
#include "quant/scheme.h"

namespace quest::app {

/// The PresetLookup of all commands: a preset's shape and, for the published sizes, the learning
/// rate and sequence length that they were trained with. Throws UsageError for an unknown name.
std::vector<Assignment> model_preset(const std::string& name);

/// The shape that `settings` describe, with the derived values filled in and checked; positions as
/// many as train.seq_len. `tokenizer_vocab` is what the tokenizer has; model.vocab may be larger.
/// Throws UsageError.
ModelConfig model_config(const TrainSettings& settings, std::int64_t tokenizer_vocab);

/// The scheme with its overrides, checked against the layers of `config`. Throws UsageError.
Scheme model_scheme(const TrainSettings& settings, const ModelConfig& config);

/// run.dtype.
DType compute_dtype(const TrainSettings& settings);

}  // namespace quest::app
