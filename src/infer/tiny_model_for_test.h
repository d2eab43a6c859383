// Small models and temporary folders for the tests of this folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/rng.h"
#include "model/model.h"

namespace quest {

inline std::unique_ptr<Backend> backend_for_test(const std::string& name) {
  return name == "reference" ? make_reference_backend() : make_cpu_backend(1);
}

/// Two blocks with grouped queries, 40 positions, a vocabulary of `vocab`.
inline ModelConfig tiny_config(std::int64_t vocab = 37) {
  ModelConfig config;
  config.layers = 2;
  config.width = 32;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.hidden = 64;
  config.vocab = vocab;
  config.max_positions = 40;
  return config;
}

/// An initialized model whose weights are large enough for its logits to differ clearly.
inline std::unique_ptr<Model> tiny_model(Backend& backend, const ModelConfig& config,
                                         const std::string& scheme, DType dtype = DType::kF32) {
  auto model = std::make_unique<Model>(backend, config, Scheme::parse(scheme), dtype, false);
  model->initialize(5);
  model->llama().for_each_parameter([](const Parameter& parameter) {
    if (parameter.init_std == 0.0) return;
    for (std::int64_t i = 0; i < parameter.value.numel(); ++i) {
      parameter.value.as<float>()[i] *= 10.0f;
    }
  });
  model->prepare();
  return model;
}

inline std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab,
                                               std::uint32_t stream = 0) {
  Rng rng(3, RngPurpose::kTest, stream);
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(vocab))));
  }
  return tokens;
}

/// A new folder that goes away with this.
class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("quest_infer_" + std::to_string(std::random_device()()))) {
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace quest
