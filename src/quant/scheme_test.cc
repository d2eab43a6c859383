// Tests of scheme texts: defaults, round trips, overrides and errors.
#include "quant/scheme.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace quest {
namespace {

TEST(LinearScheme, DefaultsFollowThePublishedRuns) {
  const LinearScheme w4a4 = LinearScheme::parse("w4a4");
  EXPECT_EQ(w4a4.weight.estimator, Estimator::kTrust);
  EXPECT_EQ(w4a4.transform, Transform::kHadamard);
  const LinearScheme w1a1 = LinearScheme::parse("w1a1");
  EXPECT_EQ(w1a1.weight.estimator, Estimator::kClip);
  EXPECT_EQ(w1a1.activation.kappa, 1.30);
  EXPECT_EQ(LinearScheme::parse("w1a1 none").weight.kappa, 1.25);
  EXPECT_EQ(LinearScheme::parse("w1a4").activation.estimator, Estimator::kTrust);
  EXPECT_EQ(LinearScheme::parse("w4a4 clip").weight.kappa, 1.0);
  EXPECT_FALSE(LinearScheme::parse("w4a16").activation.quantized());
  EXPECT_FALSE(LinearScheme::parse("none").quantized());
  EXPECT_EQ(LinearScheme::parse("w16a16"), LinearScheme::parse("none"));
}

TEST(LinearScheme, TextRoundTrips) {
  for (const char* text :
       {"none", "w4a4", "w1a1", "w8a8", "w2a16", "w16a4", "w4a4 none", "w4a4 ste", "w4a4 none ste",
        "w1a1 trust", "w1a4", "w2a2 clip", "w3a3 kappa=1.5", "w1a1 none kappa=2"}) {
    EXPECT_EQ(LinearScheme::parse(text).to_string(), text);
  }
  EXPECT_EQ(LinearScheme::parse("w1a1 kappa=1.3").to_string(), "w1a1");
}

TEST(LinearScheme, WrongTextsAreRefused) {
  for (const char* text : {"", "w", "w4", "4a4", "w9a4", "w0a4", "w4a", "w4a4x", "w4a4 lsqq",
                           "w4a4 kappa=", "w4a4 kappa=-1", "w4a4 ste kappa=2", "w-4a4", "w4.5a4"}) {
    EXPECT_THROW(LinearScheme::parse(text), Error) << text;
  }
}

TEST(Scheme, LastMatchingOverrideWins) {
  const Scheme scheme =
      Scheme::parse("w4a4", {"blocks.*.mlp.down=w8a8", "blocks.3.*=none", "*.q=w1a1 kappa=2"});
  EXPECT_EQ(scheme.for_layer("blocks.0.attn.k").to_string(), "w4a4");
  EXPECT_EQ(scheme.for_layer("blocks.0.mlp.down").to_string(), "w8a8");
  EXPECT_EQ(scheme.for_layer("blocks.3.mlp.down").to_string(), "none");
  EXPECT_EQ(scheme.for_layer("blocks.3.attn.q").to_string(), "w1a1 kappa=2");
  EXPECT_EQ(Scheme::parse("w4a4", scheme.overrides()), scheme);
}

TEST(Scheme, OverridesThatMatchNothingAreRefused) {
  const std::vector<std::string> names = {"blocks.0.attn.q", "blocks.0.mlp.down"};
  EXPECT_NO_THROW(Scheme::parse("w4a4", {"blocks.0.mlp.down=w8a8"}).check_overrides(names));
  EXPECT_THROW(Scheme::parse("w4a4", {"blocks.7.mlp.down=w8a8"}).check_overrides(names), Error);
  EXPECT_THROW(Scheme::parse("w4a4", {"blocks.0.mlp.down"}), Error);
}

}  // namespace
}  // namespace quest
