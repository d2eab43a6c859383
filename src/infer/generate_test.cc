// The generation loop: determinism and each reason to stop.
#include "infer/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "infer/tiny_model_for_test.h"

namespace quest {
namespace {

class Generate : public ::testing::Test {
 protected:
  Generation run(const GenerateOptions& options, std::int64_t capacity = 0) {
    Session session(*model_, {.capacity = capacity, .chunk = 3});
    streamed_.clear();
    return generate(session, prompt_, options,
                    [this](std::int32_t token) { streamed_.push_back(token); });
  }

  std::unique_ptr<Backend> backend_ = backend_for_test("cpu");
  std::unique_ptr<Model> model_ = tiny_model(*backend_, tiny_config(), "w4a4");
  std::vector<std::int32_t> prompt_ = random_tokens(7, 37);
  std::vector<std::int32_t> streamed_;
};

TEST_F(Generate, GreedyTokensAreTheLikeliestOfAFreshPassOverThePrefix) {
  const Generation result = run({.max_tokens = 9});
  EXPECT_EQ(result.stop_reason, StopReason::kLength);
  ASSERT_EQ(result.tokens.size(), 9u);
  std::vector<std::int32_t> prefix = prompt_;
  for (const std::int32_t token : result.tokens) {
    Session fresh(*model_);
    EXPECT_EQ(sample(fresh.prefill(prefix), {}, 0), token);
    prefix.push_back(token);
  }
}

TEST_F(Generate, EveryTokenIsStreamedInOrder) {
  const Generation result = run({.max_tokens = 9, .sampling = {.temperature = 1.0}});
  EXPECT_EQ(streamed_, result.tokens);
}

TEST_F(Generate, TheSameSeedGivesTheSameTokensAndAnotherOthers) {
  const GenerateOptions options{.max_tokens = 20, .sampling = {.temperature = 2.0, .seed = 4}};
  const auto first = run(options).tokens;
  EXPECT_EQ(run(options).tokens, first);
  EXPECT_NE(run({.max_tokens = 20, .sampling = {.temperature = 2.0, .seed = 5}}).tokens, first);
}

TEST_F(Generate, StopsBeforeTheEndToken) {
  const auto tokens = run({.max_tokens = 20, .sampling = {.temperature = 2.0}}).tokens;
  const std::int32_t end = tokens[5];
  const auto first =
      static_cast<std::size_t>(std::find(tokens.begin(), tokens.end(), end) - tokens.begin());
  const Generation result =
      run({.max_tokens = 20, .sampling = {.temperature = 2.0}, .end_token = end});
  EXPECT_EQ(result.stop_reason, StopReason::kEndOfText);
  EXPECT_EQ(result.tokens, std::vector(tokens.begin(), tokens.begin() + long(first)));
  EXPECT_EQ(streamed_, result.tokens);
}

TEST_F(Generate, StopsWhenTheContextIsFull) {
  const auto unlimited = run({.max_tokens = 20}).tokens;
  // Seven positions of prompt and three of what follows; a fourth token needs no position.
  const Generation result = run({.max_tokens = 20}, 10);
  EXPECT_EQ(result.stop_reason, StopReason::kContext);
  EXPECT_EQ(result.tokens, std::vector(unlimited.begin(), unlimited.begin() + 4));
}

TEST_F(Generate, APromptLongerThanTheContextIsAnError) {
  EXPECT_THROW(run({.max_tokens = 1}, 6), Error);
  EXPECT_EQ(run({.max_tokens = 1}, 7).stop_reason, StopReason::kLength);
}

TEST_F(Generate, WeightsThatAreNotFiniteAreReported) {
  model_->llama().final_norm().as<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(run({.max_tokens = 1}), NonFiniteError);
}

TEST_F(Generate, TokensBeyondTheTokenizersVocabularyAreNotChosen) {
  const auto tokens = run({.max_tokens = 30, .sampling = {.temperature = 5.0}}).tokens;
  EXPECT_GE(*std::max_element(tokens.begin(), tokens.end()), 10);
  const auto limited =
      run({.max_tokens = 30, .sampling = {.temperature = 5.0}, .vocab = 10}).tokens;
  EXPECT_LT(*std::max_element(limited.begin(), limited.end()), 10);
}

TEST_F(Generate, ACallbackThatThrowsEndsIt) {
  Session session(*model_);
  int calls = 0;
  EXPECT_THROW(generate(session, prompt_, {.max_tokens = 9},
                        [&](std::int32_t) {
                          if (++calls == 2) throw Error("stop");
                        }),
               Error);
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace quest
