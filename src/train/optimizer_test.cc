// Tests of AdamW: the update, its groups and clipping, against the formulas in double.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "core/rng.h"
#include "train/tiny_run_for_test.h"

namespace quest {
namespace {

// One parameter in double (Loshchilov and Hutter 2019, as PyTorch orders it).
struct Exact {
  std::vector<double> value;
  std::vector<double> first;
  std::vector<double> second;
  double decay = 0.0;
};

// One update; returns the global norm of the gradients.
double update(AdamW& optimizer, double learning_rate, std::int64_t step, double loss = 0.0) {
  double sums[2] = {loss, 7.0};
  optimizer.begin_step(learning_rate, step);
  optimizer.update(view_of(sums, {2}));
  EXPECT_EQ(std::isnan(sums[0]) ? 0.0 : sums[0], std::isnan(loss) ? 0.0 : loss);
  return std::sqrt(sums[1]);
}

class OptimizerTest : public ::testing::Test {
 protected:
  void set_gradients(std::uint32_t step, double size) {
    Rng rng(4, RngPurpose::kTest, step);
    model_.llama().for_each_parameter([&](const Parameter& parameter) {
      for (std::int64_t i = 0; i < parameter.gradient.numel(); ++i) {
        parameter.gradient.as<float>()[i] = static_cast<float>(size * rng.normal());
      }
    });
  }
  double exact_norm() {
    double sum = 0.0;
    model_.llama().for_each_parameter([&](const Parameter& parameter) {
      for (std::int64_t i = 0; i < parameter.gradient.numel(); ++i) {
        sum += std::pow(parameter.gradient.as<float>()[i], 2);
      }
    });
    return std::sqrt(sum);
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
  Model model_{*backend_, tiny_run_config().model, Scheme(), DType::kF32, true};
};

TEST_F(OptimizerTest, FollowsTheFormulasOverStepsWithGroupsAndClipping) {
  OptimizerConfig config;
  config.weight_decay = 0.3;
  AdamW optimizer(model_, config);
  model_.initialize(1);
  std::map<std::string, Exact> exact;
  model_.llama().for_each_parameter([&](const Parameter& p) {
    const float* const values = p.value.as<float>();
    Exact& e = exact[p.name];
    e.value.assign(values, values + p.value.numel());
    e.first.assign(e.value.size(), 0.0);
    e.second.assign(e.value.size(), 0.0);
    // The matrices inside blocks, by name.
    if (p.name.find("_proj.weight") != std::string::npos) e.decay = 0.3;
  });
  // Norms far above and below the clipping bound of 1.
  const double sizes[] = {0.5, 1e-4, 3e-3, 2.0};
  for (std::int64_t step = 1; step <= 4; ++step) {
    const double rate = 1e-2 / static_cast<double>(step);
    set_gradients(static_cast<std::uint32_t>(step), sizes[step - 1]);
    const double norm = exact_norm();
    EXPECT_NEAR(update(optimizer, rate, step), norm, 1e-6 * norm);
    const double scale = std::min(1.0, 1.0 / (norm + 1e-6));
    model_.llama().for_each_parameter([&](const Parameter& p) {
      Exact& e = exact[p.name];
      for (std::size_t i = 0; i < e.value.size(); ++i) {
        const double g = scale * p.gradient.as<float>()[i];
        e.first[i] = 0.9 * e.first[i] + 0.1 * g;
        e.second[i] = 0.95 * e.second[i] + 0.05 * g * g;
        const double mean = e.first[i] / (1.0 - std::pow(0.9, step));
        const double root = std::sqrt(e.second[i] / (1.0 - std::pow(0.95, step)));
        e.value[i] -= rate * e.decay * e.value[i];
        e.value[i] -= rate * mean / (root + 1e-8);
        EXPECT_NEAR(p.value.as<float>()[i], e.value[i], 2e-6) << p.name << " step " << step;
      }
    });
    if (HasFailure()) return;
  }
  for (const NamedTensor& moment : optimizer.moments()) {
    const bool second = moment.name.starts_with("exp_avg_sq.");
    const Exact& e = exact[moment.name.substr(second ? 11 : 8)];
    for (std::size_t i = 0; i < e.value.size(); ++i) {
      const double wanted = second ? e.second[i] : e.first[i];
      EXPECT_NEAR(moment.tensor.as<float>()[i], wanted,
                  1e-5 * std::abs(wanted) + (second ? 1e-14 : 1e-9))
          << moment.name;
    }
    if (HasFailure()) return;
  }
}

TEST_F(OptimizerTest, DecaysTheMatricesOfBlocksAndNothingElse) {
  AdamW optimizer(model_, {});
  model_.initialize(1);
  std::map<std::string, std::vector<float>> before;
  model_.llama().for_each_parameter([&](const Parameter& p) {
    before[p.name].assign(p.value.as<float>(), p.value.as<float>() + p.value.numel());
  });
  update(optimizer, 0.5, 1);  // all gradients are zero
  int decayed = 0;
  model_.llama().for_each_parameter([&](const Parameter& p) {
    const bool matrix = p.name.find("_proj.weight") != std::string::npos;
    const float factor = matrix ? 1.0f - 0.5f * 0.1f : 1.0f;
    decayed += matrix;
    for (std::int64_t i = 0; i < p.value.numel(); ++i) {
      const float wanted = before[p.name][static_cast<std::size_t>(i)] * factor;
      ASSERT_NEAR(p.value.as<float>()[i], wanted, 3e-7f * std::abs(wanted)) << p.name;
    }
  });
  EXPECT_EQ(decayed, 14);  // q, k, v, out, gate, up, down in two blocks
}

TEST_F(OptimizerTest, NothingChangesWhenAGradientOrTheLossIsNotFinite) {
  AdamW optimizer(model_, {});
  model_.initialize(1);
  set_gradients(1, 0.1);
  update(optimizer, 1e-3, 1);
  std::vector<float> before;
  const auto all = [&] {
    std::vector<float> values;
    model_.llama().for_each_parameter([&](const Parameter& p) {
      values.insert(values.end(), p.value.as<float>(), p.value.as<float>() + p.value.numel());
    });
    for (const NamedTensor& m : optimizer.moments()) {
      values.insert(values.end(), m.tensor.as<float>(), m.tensor.as<float>() + m.tensor.numel());
    }
    return values;
  };
  before = all();
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    set_gradients(2, 0.1);
    model_.llama().d_final_norm().as<float>()[5] = bad;
    EXPECT_FALSE(std::isfinite(update(optimizer, 1e-3, 2)));
    EXPECT_EQ(all(), before);
    set_gradients(2, 0.1);
    EXPECT_TRUE(std::isfinite(update(optimizer, 1e-3, 2, bad)));
    EXPECT_EQ(all(), before);
  }
}

TEST_F(OptimizerTest, WithoutABoundNothingIsClipped) {
  OptimizerConfig unclipped;
  unclipped.grad_clip = 0.0;
  AdamW optimizer(model_, unclipped);
  model_.initialize(1);
  set_gradients(1, 10.0);
  const Tensor gradient = model_.llama().d_final_norm();
  const float wanted = 0.1f * gradient.as<float>()[3];
  update(optimizer, 1e-3, 1);
  for (const NamedTensor& moment : optimizer.moments()) {
    if (moment.name != "exp_avg.model.norm.weight") continue;
    EXPECT_NEAR(moment.tensor.as<float>()[3], wanted, 1e-6f * std::abs(wanted));
  }
}

}  // namespace
}  // namespace quest
