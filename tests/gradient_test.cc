// Every gradient of the unquantized model against finite differences of its loss, on every backend.
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "golden_files.h"
#include "model/backward.h"
#include "model/model.h"

namespace quest {
namespace {

struct Case {
  const char* name;
  bool tied_head;
  RopeLayout layout;
  std::int64_t kv_heads;
};

constexpr Case kCases[] = {{"plain", false, RopeLayout::kInterleaved, 4},
                           {"grouped", false, RopeLayout::kInterleaved, 2},
                           {"tied_grouped_half", true, RopeLayout::kHalf, 2},
                           {"one_key_head_half", false, RopeLayout::kHalf, 1}};

ModelConfig small_model(const Case& c) {
  ModelConfig config;
  config.layers = 2;
  config.width = 20;
  config.heads = 4;
  config.kv_heads = c.kv_heads;
  config.head_dim = 6;
  config.hidden = 28;
  config.vocab = 23;
  config.max_positions = 7;
  config.tied_head = c.tied_head;
  config.rope_layout = c.layout;
  return config;
}

class Gradient : public ::testing::TestWithParam<std::tuple<std::string, Case>> {
 protected:
  static constexpr PassShape kShape{2, 7, true};

  void SetUp() override {
    const ModelConfig config = small_model(std::get<1>(GetParam()));
    backend_ = make_backend(std::get<0>(GetParam()));
    model_ = std::make_unique<Model>(*backend_, config, Scheme(), DType::kF32, true);
    memory_ = Arena(*backend_, Model::measure_activations(config, Scheme(), DType::kF32, kShape));
    activations_ = model_->llama().make_activations(memory_, kShape);
    // Large enough that attention is far from uniform and every nonlinearity bends.
    Rng rng(5, RngPurpose::kTest);
    model_->llama().for_each_parameter([&](const Parameter& parameter) {
      for (std::int64_t i = 0; i < parameter.value.numel(); ++i) {
        const double base = parameter.init_std > 0 ? 0.0 : 1.0;
        parameter.value.as<float>()[i] = static_cast<float>(base + 0.3 * rng.normal());
      }
    });
    for (std::int64_t r = 0; r < kShape.rows(); ++r) {
      tokens_.push_back(static_cast<std::int32_t>(rng.below(23)));
      // The loss ignores some positions.
      targets_.push_back(r == 3 ? -1 : static_cast<std::int32_t>(rng.below(23)));
    }
  }

  Tensor view(std::vector<std::int32_t>& ids) {
    return view_of(ids.data(), {static_cast<std::int64_t>(ids.size())});
  }
  double loss() {
    model_->prepare();
    forward_loss(*backend_, model_->llama(), activations_, view(tokens_), view(targets_));
    backend_->synchronize();
    double sum = 0.0;
    for (std::int64_t r = 0; r < kShape.rows(); ++r) sum += activations_.losses.as<float>()[r];
    return sum;
  }
  // The loss with the parameter moved by `distance` along `direction`.
  double loss_at(const Parameter& parameter, const std::vector<float>& direction, double distance) {
    float* const values = parameter.value.as<float>();
    const std::vector<float> saved(values, values + direction.size());
    for (std::size_t i = 0; i < direction.size(); ++i) {
      values[i] += static_cast<float>(distance * direction[i]);
    }
    const double moved = loss();
    std::copy(saved.begin(), saved.end(), values);
    return moved;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  Arena memory_;
  Activations activations_;
  std::vector<std::int32_t> tokens_;
  std::vector<std::int32_t> targets_;
};

TEST_P(Gradient, IsTheDerivativeOfTheLossAlongRandomDirections) {
  model_->prepare();
  forward_backward(*backend_, model_->llama(), activations_, view(tokens_), view(targets_), 1.0f,
                   {nullptr, Write::kSet});
  finish_gradients(*backend_, model_->llama());
  backend_->synchronize();
  Rng rng(6, RngPurpose::kTest);
  int parameters = 0;
  model_->llama().for_each_parameter([&](const Parameter& parameter) {
    const auto count = static_cast<std::size_t>(parameter.value.numel());
    const float* const gradient = parameter.gradient.as<float>();
    double norm = 0.0;
    for (std::size_t i = 0; i < count; ++i) norm += std::pow(gradient[i], 2);
    norm = std::sqrt(norm);
    EXPECT_GT(norm, 1e-3) << parameter.name << " has no gradient to speak of";
    for (int trial = 0; trial < 3; ++trial) {
      std::vector<float> direction(count);
      double along = 0.0;
      for (std::size_t i = 0; i < count; ++i) {
        direction[i] = static_cast<float>(rng.normal() / std::sqrt(static_cast<double>(count)));
        along += static_cast<double>(direction[i]) * gradient[i];
      }
      // Fourth order; the step is large because the loss carries float rounding noise.
      constexpr double kStep = 0.03;
      const double difference =
          (8 * (loss_at(parameter, direction, kStep) - loss_at(parameter, direction, -kStep)) -
           (loss_at(parameter, direction, 2 * kStep) - loss_at(parameter, direction, -2 * kStep))) /
          (12 * kStep);
      // Along a random direction a derivative is about norm / sqrt(count).
      EXPECT_NEAR(along, difference, 0.01 * norm / std::sqrt(static_cast<double>(count)) + 3e-4)
          << parameter.name;
    }
    ++parameters;
  });
  EXPECT_EQ(parameters, std::get<1>(GetParam()).tied_head ? 20 : 21);
}

INSTANTIATE_TEST_SUITE_P(Backends, Gradient,
                         ::testing::Combine(::testing::ValuesIn(testable_backends()),
                                            ::testing::ValuesIn(kCases)),
                         [](const auto& test) {
                           std::string name =
                               std::get<0>(test.param) + "_" + std::get<1>(test.param).name;
                           for (char& c : name) {
                             if (c == ' ') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace quest
