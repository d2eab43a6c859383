// What the tests of packed models share: a small model, its export, and its numbers.
#pragma once

#include <cmath>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "infer/export.h"
#include "infer/model_folder.h"
#include "infer/session.h"
#include "infer/tiny_model_for_test.h"

namespace quest {

/// Bits of embedding and head in which nothing is lost.
inline constexpr StoredBits kExact{32, 32};

/// Widths with Hadamard blocks of 32 and of which no vector length is a divisor.
inline ModelConfig small_config() {
  ModelConfig config;
  config.layers = 2;
  config.width = 96;
  config.heads = 6;
  config.kv_heads = 3;
  config.head_dim = 16;
  config.hidden = 160;
  config.vocab = 256;
  config.max_positions = 220;
  return config;
}

inline std::unique_ptr<Model> small_model(Backend& backend, const ModelConfig& config,
                                          const Scheme& scheme, DType compute = DType::kF32) {
  auto model = std::make_unique<Model>(backend, config, scheme, compute, false);
  model->initialize(5);
  model->llama().for_each_parameter([](const Parameter& parameter) {
    if (parameter.init_std == 0.0) return;
    for (std::int64_t i = 0; i < parameter.value.numel(); ++i) {
      parameter.value.as<float>()[i] *= 6.0f;
    }
  });
  model->prepare();
  return model;
}

inline LoadedModel exported(const Model& model, const StoredBits& bits,
                            const std::filesystem::path& folder) {
  export_packed(model, {*load_tokenizer("bytes")}, bits, folder);
  return load_model_folder(folder, model.backend(), DType::kF32);
}

/// The normalized output of the last block, f32 [R, C], of one pass over `tokens` in two sequences.
inline std::vector<float> last_values(const RunnableModel& model,
                                      std::vector<std::int32_t> tokens) {
  const PassShape shape{2, static_cast<std::int64_t>(tokens.size()) / 2, false};
  Arena measuring;
  model.make_activations(measuring, shape);
  Arena memory(model.backend(), measuring.used_bytes());
  Activations a = model.make_activations(memory, shape);
  KvCache pass_through;
  model.forward(view_of(tokens.data(), {shape.rows()}), a, pass_through);
  model.backend().synchronize();
  return {a.final_x.as<float>(), a.final_x.as<float>() + a.final_x.numel()};
}

inline double mean_loss(const RunnableModel& model, std::vector<std::int32_t> tokens) {
  const PassShape shape{2, static_cast<std::int64_t>(tokens.size()) / 2, false};
  Arena measuring;
  model.make_activations(measuring, shape);
  Arena memory(model.backend(), measuring.used_bytes());
  Activations a = model.make_activations(memory, shape);
  std::vector<std::int32_t> targets(tokens.rbegin(), tokens.rend());
  KvCache pass_through;
  model.losses(a, view_of(tokens.data(), {shape.rows()}), view_of(targets.data(), {shape.rows()}),
               pass_through);
  model.backend().synchronize();
  double sum = 0.0;
  for (std::int64_t i = 0; i < shape.rows(); ++i) sum += a.losses.as<float>()[i];
  return sum / static_cast<double>(shape.rows());
}

/// The largest difference relative to the largest value.
inline double difference(std::span<const float> a, std::span<const float> b) {
  double largest = 0.0;
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(double{b[i]}));
    worst = std::max(worst, std::abs(double{a[i]} - b[i]));
  }
  return worst / largest;
}

inline std::vector<float> prefilled(const RunnableModel& model,
                                    std::span<const std::int32_t> tokens) {
  Session session(model);
  const auto row = session.prefill(tokens);
  return {row.begin(), row.end()};
}

}  // namespace quest
