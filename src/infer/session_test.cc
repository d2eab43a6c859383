// A session's logits against those of the passes that training and evaluation make.
#include "infer/session.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "core/error.h"
#include "infer/tiny_model_for_test.h"
#include "model/backward.h"

namespace quest {
namespace {

struct Variant {
  const char* name;
  const char* scheme;
  bool grouped = true;
  RopeLayout rope = RopeLayout::kInterleaved;
  bool tied = false;
};

constexpr Variant kVariants[] = {
    {"None", "none"},
    {"W4A4", "w4a4"},
    {"W1A1", "w1a1"},
    {"W4A16", "w4a16"},
    {"W8A8WithoutRotation", "w8a8 none"},
    {"UngroupedHeads", "w4a4", false},
    {"HalfRope", "w4a4", true, RopeLayout::kHalf},
    {"HalfRopeNone", "none", true, RopeLayout::kHalf},
    {"TiedHead", "none", true, RopeLayout::kInterleaved, true},
    {"TiedHeadHalfRopeW1A1", "w1a1", true, RopeLayout::kHalf, true},
};

ModelConfig config_of(const Variant& variant) {
  ModelConfig config = tiny_config();
  if (!variant.grouped) config.kv_heads = config.heads;
  config.rope_layout = variant.rope;
  config.tied_head = variant.tied;
  return config;
}

// Logits [T, V] of one sequence by the forward pass of training, with the memory of backward.
std::vector<float> training_logits(const Model& model, std::vector<std::int32_t> tokens) {
  const PassShape shape{1, static_cast<std::int64_t>(tokens.size()), true};
  Backend& backend = model.backend();
  Arena memory(backend, Model::measure_activations(model.config(), model.llama().scheme(),
                                                   model.llama().compute(), shape));
  Activations a = model.llama().make_activations(memory, shape);
  const Tensor view = view_of(tokens.data(), {shape.length});
  forward_loss(backend, model.llama(), a, view, view);
  const Tensor logits = model.llama().logits(backend, a, 0, shape.length);
  backend.synchronize();
  return {logits.as<float>(), logits.as<float>() + logits.numel()};
}

// The largest difference of a row of `wanted` [T, V], relative to the row's largest value.
double difference(std::span<const float> row, const std::vector<float>& wanted,
                  std::size_t position) {
  double largest = 0.0;
  double worst = 0.0;
  for (std::size_t v = 0; v < row.size(); ++v) {
    const double value = wanted[position * row.size() + v];
    largest = std::max(largest, std::abs(value));
    worst = std::max(worst, std::abs(row[v] - value));
  }
  return worst / largest;
}

class SessionLogits : public ::testing::TestWithParam<std::tuple<std::string, Variant>> {};

TEST_P(SessionLogits, EqualThoseOfTrainingAtEveryPosition) {
  const auto& [backend_name, variant] = GetParam();
  const auto backend = backend_for_test(backend_name);
  const auto model = tiny_model(*backend, config_of(variant), variant.scheme);
  const auto tokens = random_tokens(23, model->config().vocab);
  const std::vector<float> wanted = training_logits(*model, tokens);

  Session session(*model, {.chunk = 5});
  // Every split into a prefilled part (of whole chunks, a remainder, or both) and a decoded one.
  for (std::size_t prefilled = 1; prefilled <= tokens.size(); ++prefilled) {
    session.truncate(0);
    const auto logits = session.prefill(std::span(tokens).first(prefilled));
    EXPECT_LT(difference(logits, wanted, prefilled - 1), 1e-5) << "prefill of " << prefilled;
    if (prefilled % 7 != 1) continue;
    for (std::size_t position = prefilled; position < tokens.size(); ++position) {
      EXPECT_LT(difference(session.decode(tokens[position]), wanted, position), 1e-5)
          << "prefill of " << prefilled << ", decoded position " << position;
    }
    EXPECT_EQ(session.length(), 23);
  }
}

INSTANTIATE_TEST_SUITE_P(All, SessionLogits,
                         ::testing::Combine(::testing::Values("reference", "cpu"),
                                            ::testing::ValuesIn(kVariants)),
                         [](const auto& test) {
                           return std::get<0>(test.param) +
                                  std::string(std::get<1>(test.param).name);
                         });

TEST(Session, BFloat16DecodingStaysCloseToTheBFloat16Pass) {
  const auto backend = backend_for_test("cpu");
  const auto model = tiny_model(*backend, tiny_config(), "none", DType::kBF16);
  const auto tokens = random_tokens(12, model->config().vocab);
  const std::vector<float> wanted = training_logits(*model, tokens);
  Session session(*model);
  for (std::size_t position = 0; position < tokens.size(); ++position) {
    EXPECT_LT(difference(session.decode(tokens[position]), wanted, position), 0.05);
  }
}

TEST(Session, TruncateForgetsWhatFollowed) {
  const auto backend = backend_for_test("cpu");
  const auto model = tiny_model(*backend, tiny_config(), "w4a4");
  const auto tokens = random_tokens(12, model->config().vocab);
  const auto other = random_tokens(12, model->config().vocab, 1);
  Session session(*model);
  session.prefill(tokens);
  session.truncate(4);
  session.prefill(std::span(other).subspan(4));
  session.truncate(4);
  const auto again = session.prefill(std::span(tokens).subspan(4));
  Session fresh(*model);
  const auto wanted = fresh.prefill(tokens);
  EXPECT_LT(difference(again, {wanted.begin(), wanted.end()}, 0), 1e-5);
}

TEST(Session, CapacityIsTheModelsContextOrLess) {
  const auto backend = backend_for_test("reference");
  const auto model = tiny_model(*backend, tiny_config(), "none");
  EXPECT_EQ(Session(*model).capacity(), 40);
  EXPECT_EQ(Session(*model, {.capacity = 1000}).capacity(), 40);
  EXPECT_EQ(Session(*model, {.capacity = 7}).capacity(), 7);
}

template <typename Call>
void expect_error(Call call, const std::string& part) {
  try {
    call();
    FAIL() << "accepted; expected: " << part;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Session, RefusesTokensThatItCannotTakeAndStaysUsable) {
  const auto backend = backend_for_test("reference");
  const auto model = tiny_model(*backend, tiny_config(), "none");
  Session session(*model);
  const auto tokens = random_tokens(41, 37);
  expect_error([&] { session.prefill({}); }, "give a prompt");
  expect_error([&] { session.prefill(tokens); }, "41 tokens do not fit into the model's context");
  expect_error([&] { session.decode(37); }, "token 37 is not in the model's vocabulary of 37");
  expect_error([&] { session.decode(-1); }, "token -1 is not in");
  EXPECT_EQ(session.length(), 0);
  session.prefill(std::span(tokens).first(40));
  expect_error([&] { session.decode(1); }, "it holds 40 positions, 40 are in use");
  EXPECT_EQ(session.length(), 40);
}

TEST(Session, AnglesAreTheSameWhetherTheTablesGrowOrAreFilledAtOnce) {
  const auto backend = backend_for_test("cpu");
  ModelConfig config = tiny_config();
  config.max_positions = 700;  // three times what the first pass fills
  const auto tokens = random_tokens(640, config.vocab);
  std::vector<float> logits[2];
  for (const bool at_once : {false, true}) {
    const auto model = tiny_model(*backend, config, "w4a4");
    if (at_once) training_logits(*model, random_tokens(700, config.vocab));
    Session session(*model);
    const auto row = session.prefill(tokens);
    logits[at_once].assign(row.begin(), row.end());
  }
  EXPECT_EQ(logits[0], logits[1]);
}

}  // namespace
}  // namespace quest
