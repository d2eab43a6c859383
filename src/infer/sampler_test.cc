// The sampler against the distribution that its options define.
#include "infer/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "core/error.h"

namespace quest {
namespace {

constexpr int kDraws = 20000;

std::vector<double> frequencies(const std::vector<float>& logits, const SamplingOptions& options) {
  std::vector<double> counts(logits.size());
  for (int position = 0; position < kDraws; ++position) {
    counts[static_cast<std::size_t>(sample(logits, options, position))] += 1.0 / kDraws;
  }
  return counts;
}

// Five standard deviations of a frequency.
double tolerance(double p) { return 5.0 * std::sqrt(p * (1.0 - p) / kDraws) + 1e-12; }

void expect_frequencies(const std::vector<float>& logits, const SamplingOptions& options,
                        const std::vector<double>& wanted) {
  const std::vector<double> found = frequencies(logits, options);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_NEAR(found[i], wanted[i], tolerance(wanted[i])) << "token " << i;
  }
}

std::vector<float> logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

const std::vector<double> kProbabilities = {0.1, 0.4, 0.05, 0.3, 0.15};

TEST(Sampler, ZeroTemperatureTakesTheFirstLargest) {
  const std::vector<float> logits = {1.0f, 3.0f, 3.0f, -2.0f};
  for (int position = 0; position < 10; ++position) EXPECT_EQ(sample(logits, {}, position), 1);
}

TEST(Sampler, TemperatureOneGivesTheModelsProbabilities) {
  expect_frequencies(logs(kProbabilities), {.temperature = 1.0}, kProbabilities);
}

TEST(Sampler, TemperatureIsAPowerOfTheProbabilities) {
  std::vector<double> wanted;
  double total = 0.0;
  for (const double p : kProbabilities) wanted.push_back(std::pow(p, 2.0));
  for (const double w : wanted) total += w;
  for (double& w : wanted) w /= total;
  expect_frequencies(logs(kProbabilities), {.temperature = 0.5}, wanted);
}

TEST(Sampler, TopKKeepsTheKLikeliest) {
  expect_frequencies(logs(kProbabilities), {.temperature = 1.0, .top_k = 2},
                     {0.0, 0.4 / 0.7, 0.0, 0.3 / 0.7, 0.0});
  expect_frequencies(logs(kProbabilities), {.temperature = 1.0, .top_k = 99}, kProbabilities);
}

TEST(Sampler, TopPKeepsTheFewestThatReachP) {
  expect_frequencies(logs(kProbabilities), {.temperature = 1.0, .top_p = 0.8},
                     {0.0, 0.4 / 0.85, 0.0, 0.3 / 0.85, 0.15 / 0.85});
  expect_frequencies(logs(kProbabilities), {.temperature = 1.0, .top_p = 0.01},
                     {0.0, 1.0, 0.0, 0.0, 0.0});
}

TEST(Sampler, TopPCountsWithinTopK) {
  // Of the two likeliest, 0.4 is 57 %: not enough for 60 %, enough for 50 %.
  expect_frequencies(logs(kProbabilities), {.temperature = 1.0, .top_k = 2, .top_p = 0.6},
                     {0.0, 0.4 / 0.7, 0.0, 0.3 / 0.7, 0.0});
  expect_frequencies(logs(kProbabilities), {.temperature = 1.0, .top_k = 2, .top_p = 0.5},
                     {0.0, 1.0, 0.0, 0.0, 0.0});
}

TEST(Sampler, EqualTokensAreKeptByLowerId) {
  const std::vector<float> logits(6, 0.0f);
  expect_frequencies(logits, {.temperature = 1.0, .top_k = 2}, {0.5, 0.5, 0.0, 0.0, 0.0, 0.0});
}

TEST(Sampler, ExtremeLogitsAndTemperaturesStayInRange) {
  const std::vector<float> logits = {-3e38f, 3e38f, 0.0f};
  for (const double temperature : {1e-300, 1e-6, 1.0, 1e300}) {
    for (int position = 0; position < 200; ++position) {
      const std::int32_t token = sample(logits, {.temperature = temperature}, position);
      ASSERT_GE(token, 0);
      ASSERT_LT(token, 3);
      ASSERT_TRUE(token == 1 || temperature > 1.0);
    }
  }
}

TEST(Sampler, ADrawDependsOnSeedAndPositionOnly) {
  const std::vector<float> logits = logs(kProbabilities);
  int differing_seeds = 0;
  int differing_positions = 0;
  for (int position = 0; position < 200; ++position) {
    const SamplingOptions seven{.temperature = 1.0, .seed = 7};
    const std::int32_t first = sample(logits, seven, position);
    EXPECT_EQ(sample(logits, seven, position), first);
    differing_seeds += sample(logits, {.temperature = 1.0, .seed = 8}, position) != first;
    differing_positions += sample(logits, seven, position + 1) != first;
  }
  EXPECT_GT(differing_seeds, 50);
  EXPECT_GT(differing_positions, 50);
}

TEST(Sampler, NonFiniteLogitsAreReported) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    const std::vector<float> logits = {0.0f, 1.0f, bad};
    for (const double temperature : {0.0, 1.0}) {
      try {
        sample(logits, {.temperature = temperature}, 12);
        FAIL() << "accepted " << bad;
      } catch (const NonFiniteError& error) {
        EXPECT_NE(std::string(error.what()).find("position 12"), std::string::npos);
        EXPECT_NE(std::string(error.what()).find("token 2"), std::string::npos);
      }
    }
  }
}

TEST(Sampler, OptionsOutOfRangeAreUsageErrors) {
  EXPECT_NO_THROW((SamplingOptions{.temperature = 2.0, .top_k = 5, .top_p = 1.0}.validate()));
  for (const SamplingOptions& bad :
       {SamplingOptions{.temperature = -0.1}, SamplingOptions{.temperature = NAN},
        SamplingOptions{.temperature = INFINITY}, SamplingOptions{.top_k = -1},
        SamplingOptions{.top_p = 0.0}, SamplingOptions{.top_p = 1.01},
        SamplingOptions{.top_p = NAN}}) {
    EXPECT_THROW(bad.validate(), UsageError);
  }
}

}  // namespace
}  // namespace quest
