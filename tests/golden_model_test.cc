// The reference's Llama: logits, loss and every gradient, on every backend.
#include <gtest/gtest.h>

#include <cmath>

#include "golden_files.h"
#include "model/backward.h"
#include "model/model.h"
#include "model/model_file.h"

namespace quest {
namespace {

struct Case {
  const char* golden;
  const char* scheme;
  double tolerance;  // relative L2 of logits and of each gradient
};

constexpr Case kMicroCases[] = {{"none", "none", 1e-5},
                                {"quest_w4a4", "w4a4", 1e-5},
                                {"quest_w3a3", "w3a3", 1e-5},
                                {"quest_w2a2", "w2a2", 1e-5},
                                {"quest_w1a1", "w1a1", 1e-5},
                                {"trust_w1a1", "w1a1 trust", 1e-5},
                                // Not robust: values near zero change sign at the input of `down`.
                                {"ste_w4a4", "w4a4 none ste", 3e-2}};

ModelConfig golden_config(std::int64_t layers, std::int64_t positions) {
  ModelConfig config;
  config.layers = layers;
  config.width = 128;
  config.heads = config.kv_heads = 2;
  config.head_dim = 64;
  config.hidden = 512;
  config.vocab = 256;
  config.max_positions = positions;
  return config;
}

// Our parameter's rows in the reference's tensor `prefix + name`; null if the file lacks it.
Tensor reference_rows(const SafetensorsFile& file, const std::string& prefix,
                      const Parameter& parameter, const ModelConfig& config) {
  const WeightSource source = reference_source(parameter.name, config);
  if (!file.contains(prefix + source.name)) return Tensor();
  const Tensor found = file.tensor(prefix + source.name);
  if (parameter.value.shape.rank() == 1) return found;
  return found.rows_slice(source.first_row, source.first_row + parameter.value.rows());
}

// A model with a golden's weights and one pass's memory.
struct Fixture {
  Fixture(Backend& backend, const ModelConfig& config, const char* scheme,
          const SafetensorsFile& weights, const PassShape& shape)
      : model(backend, config, Scheme::parse(scheme), DType::kF32, true),
        memory(backend,
               Model::measure_activations(config, Scheme::parse(scheme), DType::kF32, shape)),
        activations(model.llama().make_activations(memory, shape)),
        tokens(static_cast<std::size_t>(shape.rows())),
        targets(tokens.size()) {
    load_weights(model, weights);
    model.prepare();
  }

  // `sequences` i32 [B, T + 1].
  void set_tokens(const Tensor& sequences) {
    const std::int64_t length = sequences.cols() - 1;
    for (std::int64_t b = 0; b < sequences.rows(); ++b) {
      for (std::int64_t t = 0; t < length; ++t) {
        tokens[static_cast<std::size_t>(b * length + t)] = sequences.row<std::int32_t>(b)[t];
        targets[static_cast<std::size_t>(b * length + t)] = sequences.row<std::int32_t>(b)[t + 1];
      }
    }
  }
  Tensor token_view() { return view_of(tokens.data(), {std::int64_t(tokens.size())}); }
  Tensor target_view() { return view_of(targets.data(), {std::int64_t(targets.size())}); }
  double mean_loss() const {
    double total = 0.0;
    for (std::int64_t r = 0; r < activations.losses.numel(); ++r) {
      total += activations.losses.as<float>()[r];
    }
    return total / static_cast<double>(activations.losses.numel());
  }

  Model model;
  Arena memory;
  Activations activations;
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> targets;
};

class GoldenMicroLlama : public ::testing::TestWithParam<std::tuple<std::string, Case>> {};

TEST_P(GoldenMicroLlama, LogitsAndEveryGradientAgree) {
  const auto& [golden, scheme, tolerance] = std::get<1>(GetParam());
  QUEST_GOLDEN_OR_SKIP(path, "micro_llama_" + std::string(golden) + ".safetensors");
  const SafetensorsFile file(path);
  const auto backend = make_backend(std::get<0>(GetParam()));
  const ModelConfig config = golden_config(1, 16);
  Fixture f(*backend, config, scheme, file, {1, 16, true});
  f.set_tokens(file.tensor("tokens"));

  forward_loss(*backend, f.model.llama(), f.activations, f.token_view(), f.target_view());
  const Tensor logits = f.model.llama().logits(*backend, f.activations, 0, 16);
  EXPECT_LT(relative_l2(logits, file.tensor("logits").reshaped({16, 256})), tolerance);

  forward_backward(*backend, f.model.llama(), f.activations, f.token_view(), f.target_view(),
                   1.0f / 16, {nullptr, Write::kSet});
  finish_gradients(*backend, f.model.llama());
  int compared = 0;
  f.model.llama().for_each_parameter([&](const Parameter& parameter) {
    const Tensor wanted = reference_rows(file, "grad.", parameter, config);
    if (!wanted) return;
    EXPECT_LT(relative_l2(parameter.gradient, wanted), tolerance) << parameter.name;
    ++compared;
  });
  EXPECT_GE(compared, 9);
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<std::string, Case>>& test) {
  std::string name = std::get<0>(test.param) + "_" + std::get<1>(test.param).golden;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Backends, GoldenMicroLlama,
                         ::testing::Combine(::testing::ValuesIn(testable_backends()),
                                            ::testing::ValuesIn(kMicroCases)),
                         case_name);

}  // namespace
}  // namespace quest
