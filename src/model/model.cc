// Model: measuring, allocating and initializing.
#include "model/model.h"

#include <vector>

#include "core/rng.h"

namespace quest {

Model::Model(Backend& backend, const ModelConfig& config, const Scheme& scheme, DType compute,
             bool trains)
    : LlamaModel(backend) {
  config.validate();
  scheme.check_overrides(layer_names(config));
  const ModelBytes bytes = measure(config, scheme, compute, trains);
  arenas_.parameters = Arena(backend, bytes.parameters);
  if (trains) arenas_.gradients = Arena(backend, bytes.gradients);
  arenas_.prepared = Arena(backend, bytes.prepared);
  llama_ = std::make_unique<Llama<QuantLinear>>(config, scheme, compute, trains, arenas_);
}

ModelBytes Model::measure(const ModelConfig& config, const Scheme& scheme, DType compute,
                          bool trains) {
  ModelArenas arenas;
  const Llama<QuantLinear> llama(config, scheme, compute, trains, arenas);
  return {arenas.parameters.used_bytes(), arenas.gradients.used_bytes(),
          arenas.prepared.used_bytes()};
}

std::size_t Model::measure_activations(const ModelConfig& config, const Scheme& scheme,
                                       DType compute, const PassShape& shape) {
  ModelArenas arenas;
  const Llama<QuantLinear> llama(config, scheme, compute, shape.backward, arenas);
  Arena arena;
  llama.make_activations(arena, shape);
  return arena.used_bytes();
}

void Model::initialize(std::uint64_t seed) {
  std::uint32_t place = 0;
  llama_->for_each_parameter([&](const Parameter& parameter) {
    Rng rng(seed, RngPurpose::kInit, place++);
    std::vector<float> values(static_cast<std::size_t>(parameter.value.numel()), 1.0f);
    if (parameter.init_std > 0.0) {
      for (float& value : values) value = static_cast<float>(parameter.init_std * rng.normal());
    }
    backend_->copy(parameter.value, view_of(values.data(), parameter.value.shape));
    backend_->synchronize();
  });
}

}  // namespace quest
