// Packed models compute the numbers of training, in every scheme and instruction set.
#include <gtest/gtest.h>

#include <cctype>
#include <cstring>
#include <tuple>

#include "backend/cpu/cpu_backend.h"
#include "infer/generate.h"
#include "infer/packed_models_for_test.h"

namespace quest {
namespace {

constexpr const char* kSchemes[] = {"w1a1",  "w2a2",  "w3a3", "w4a4", "w5a5",      "w6a6",
                                    "w7a7",  "w8a8",  "w4a8", "w1a8", "w8a1",      "w2a16",
                                    "w4a16", "w16a4", "none", "w3a2", "w1a1 none", "w4a4 none"};

class PackedScheme : public testing::TestWithParam<std::tuple<Isa, const char*>> {
 protected:
  PackedScheme() { round_what_the_file_rounds(); }

  // Matrices without a scheme have 16 bits in a file.
  void round_what_the_file_rounds() {
    model_->llama().for_each_parameter([&](const Parameter& parameter) {
      const bool linear = parameter.name.find("_proj") != std::string::npos;
      if (!linear || scheme_.weight.quantized()) return;
      for (std::int64_t i = 0; i < parameter.value.numel(); ++i) {
        float& value = parameter.value.as<float>()[i];
        value = to_float(to_bfloat16(value));
      }
    });
    model_->prepare();
  }

  CpuBackend backend_{1, std::get<0>(GetParam())};
  LinearScheme scheme_ = LinearScheme::parse(std::get<1>(GetParam()));
  std::unique_ptr<Model> model_ = small_model(backend_, small_config(), Scheme(scheme_));
  TemporaryFolder root_;
};

TEST_P(PackedScheme, ComputesTheNumbersOfTraining) {
  const LoadedModel packed = exported(*model_, kExact, root_.path() / "packed");
  const auto tokens = random_tokens(80, 256);
  const bool exact = scheme_.integer_product();

  // Passes of many rows, and of few.
  for (const std::int64_t count : {80, 10}) {
    const std::vector some(tokens.begin(), tokens.begin() + count);
    const auto wanted = last_values(*model_, some);
    const auto actual = last_values(*packed.model, some);
    if (exact) {
      EXPECT_EQ(std::memcmp(actual.data(), wanted.data(), 4 * wanted.size()), 0) << count;
    } else {
      EXPECT_LT(difference(actual, wanted), 2e-5) << count;
    }
  }
  EXPECT_LT(difference(prefilled(*packed.model, tokens), prefilled(*model_, tokens)), 2e-5);
  EXPECT_NEAR(mean_loss(*packed.model, tokens), mean_loss(*model_, tokens), 1e-5);
}

TEST_P(PackedScheme, ContinuesTheSameTextGreedily) {
  const LoadedModel packed = exported(*model_, kExact, root_.path() / "packed");
  const auto prompt = random_tokens(9, 256);
  const auto continued = [&](const RunnableModel& model) {
    Session session(model);
    return generate(session, prompt, {.max_tokens = 200}, [](std::int32_t) {}).tokens;
  };
  const auto wanted = continued(*model_);
  ASSERT_EQ(wanted.size(), 200u);
  EXPECT_EQ(continued(*packed.model), wanted);
}

INSTANTIATE_TEST_SUITE_P(All, PackedScheme,
                         testing::Combine(testing::ValuesIn(available_isas()),
                                          testing::ValuesIn(kSchemes)),
                         [](const auto& test) {
                           std::string name = std::string(isa_name(std::get<0>(test.param))) + "_";
                           for (const char c : std::string(std::get<1>(test.param)))
                             name += std::isalnum(c) ? c : '_';
                           return name;
                         });

}  // namespace
}  // namespace quest
