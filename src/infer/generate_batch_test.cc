// Batches of prompts against each prompt alone.
#include "infer/generate_batch.h"

#include <gtest/gtest.h>

#include <map>

#include "backend/cpu/cpu_backend.h"
#include "core/error.h"
#include "infer/tiny_model_for_test.h"

namespace quest {
namespace {

constexpr std::int64_t kChunk = 8;
constexpr std::int64_t kVocab = 37;

struct Outcome {
  std::vector<std::int32_t> tokens;
  StopReason reason;

  bool operator==(const Outcome&) const = default;
};

// Prompts of 1 to 39 tokens with settings of their own; several fill the context of 40.
BatchPrompt prompt_at(std::int64_t index) {
  const std::int64_t length = 1 + index * 7 % 39;
  GenerateOptions options{.max_tokens = 3 + index * 5 % 17};
  options.sampling.temperature = static_cast<double>(index % 3);
  options.sampling.top_p = index % 2 == 0 ? 1.0 : 0.9;
  options.sampling.seed = static_cast<std::uint64_t>(index % 4);
  options.end_token = 5;
  return {random_tokens(length, kVocab, static_cast<std::uint32_t>(index)), options, {}, {}};
}

Outcome alone(const RunnableModel& model, std::int64_t index) {
  const BatchPrompt prompt = prompt_at(index);
  Session session(model, {.chunk = kChunk});
  const Generation result = generate(session, prompt.tokens, prompt.options, [](std::int32_t) {});
  return {result.tokens, result.stop_reason};
}

std::map<std::int64_t, Outcome> together(const RunnableModel& model, std::int64_t slots,
                                         std::int64_t prompts) {
  std::map<std::int64_t, Outcome> outcomes;
  std::map<std::int64_t, std::vector<std::int32_t>> streamed;
  std::int64_t index = 0;
  Sequences sequences(model, {.slots = slots, .chunk = kChunk});
  const BatchTotals totals = generate_batch(sequences, [&]() -> std::optional<BatchPrompt> {
    if (index == prompts) return std::nullopt;
    const std::int64_t own = index++;
    BatchPrompt prompt = prompt_at(own);
    prompt.on_token = [&streamed, own](std::int32_t token) { streamed[own].push_back(token); };
    prompt.on_end = [&, own](const std::vector<std::int32_t>& tokens, StopReason reason) {
      EXPECT_EQ(streamed[own], tokens);
      EXPECT_FALSE(outcomes.contains(own)) << "ended twice";
      outcomes[own] = {tokens, reason};
    };
    return prompt;
  });
  EXPECT_EQ(totals.prompts, prompts);
  std::int64_t tokens = 0;
  for (const auto& [own, outcome] : outcomes) {
    tokens += static_cast<std::int64_t>(outcome.tokens.size());
  }
  EXPECT_EQ(totals.new_tokens, tokens);
  return outcomes;
}

class BatchedScheme : public ::testing::TestWithParam<std::tuple<Isa, const char*>> {};

TEST_P(BatchedScheme, EachPromptGetsTheTokensThatItGetsAlone) {
  const auto& [isa, scheme] = GetParam();
  CpuBackend backend(1, isa);
  const auto model = tiny_model(backend, tiny_config(kVocab), scheme);
  constexpr std::int64_t kPrompts = 24;
  std::map<StopReason, int> reasons;
  for (const std::int64_t slots : {1, 5, 24, 64}) {
    const auto outcomes = together(*model, slots, kPrompts);
    ASSERT_EQ(outcomes.size(), std::size_t{kPrompts});
    for (const auto& [index, outcome] : outcomes) {
      EXPECT_EQ(outcome, alone(*model, index)) << "prompt " << index << " of " << slots;
      ++reasons[outcome.reason];
    }
  }
  EXPECT_GT(reasons[StopReason::kLength], 0);
  EXPECT_GT(reasons[StopReason::kContext], 0);
}

INSTANTIATE_TEST_SUITE_P(All, BatchedScheme,
                         ::testing::Combine(::testing::ValuesIn(available_isas()),
                                            ::testing::Values("none", "w8a8", "w4a4", "w2a2",
                                                              "w1a1", "w4a8", "w4a16", "w16a4",
                                                              "w4a4 none")),
                         [](const auto& test) {
                           std::string name = std::string(isa_name(std::get<0>(test.param))) + "_";
                           for (const char c : std::string(std::get<1>(test.param)))
                             name += std::isalnum(c) ? c : '_';
                           return name;
                         });

TEST(GenerateBatch, NoPromptIsNoWork) {
  CpuBackend backend(1);
  const auto model = tiny_model(backend, tiny_config(), "w4a4");
  Sequences sequences(*model, {.slots = 3});
  const BatchTotals totals = generate_batch(sequences, [] { return std::nullopt; });
  EXPECT_EQ(totals.prompts + totals.passes + totals.new_tokens, 0);
}

TEST(GenerateBatch, AStopAskedForByOnePromptEndsOnlyThatOne) {
  CpuBackend backend(1);
  const auto model = tiny_model(backend, tiny_config(), "w4a4");
  Sequences sequences(*model, {.slots = 2});
  std::int64_t given = 0, seen = 0;
  std::vector<StopReason> reasons(2);
  std::vector<std::size_t> lengths(2);
  generate_batch(sequences, [&]() -> std::optional<BatchPrompt> {
    if (given == 2) return std::nullopt;
    const auto own = static_cast<std::size_t>(given++);
    BatchPrompt prompt{random_tokens(4, kVocab), {.max_tokens = 9}, {}, {}};
    if (own == 0) {
      prompt.on_token = [&](std::int32_t) { ++seen; };
      prompt.options.has_ended = [&] { return seen == 4; };
    }
    prompt.on_end = [&, own](const std::vector<std::int32_t>& tokens, StopReason reason) {
      reasons[own] = reason;
      lengths[own] = tokens.size();
    };
    return prompt;
  });
  EXPECT_EQ(reasons, (std::vector{StopReason::kStopText, StopReason::kLength}));
  EXPECT_EQ(lengths, (std::vector<std::size_t>{4, 9}));
}

TEST(GenerateBatch, AFunctionThatThrowsEndsIt) {
  CpuBackend backend(1);
  const auto model = tiny_model(backend, tiny_config(), "w4a4");
  Sequences sequences(*model, {.slots = 2});
  int calls = 0;
  EXPECT_THROW(generate_batch(sequences,
                              [&]() -> std::optional<BatchPrompt> {
                                if (++calls == 2) throw Error("stop");
                                return prompt_at(1);
                              }),
               Error);
}

}  // namespace
}  // namespace quest
