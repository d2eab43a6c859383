// Tests of presets, counts and checks of model shapes.
#include "model/config.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "model/model.h"

namespace quest {
namespace {

TEST(ModelConfig, PublishedSizesHaveThePublishedParameterCounts) {
  const std::pair<const char*, std::int64_t> published[] = {
      {"30M", 30482560},   {"50M", 49556736},   {"100M", 102777856},
      {"200M", 203188480}, {"430M", 443068288}, {"800M", 822151168}};
  for (const auto& [name, count] : published) {
    EXPECT_EQ(ModelConfig::preset(name, 32000).non_embedding_parameters(), count) << name;
  }
}

TEST(ModelConfig, CountsAgreeWithTheTensors) {
  for (const bool tied : {false, true}) {
    ModelConfig config = ModelConfig::preset("nano", 300);
    config.kv_heads = 1;
    config.tied_head = tied;
    const auto backend = make_reference_backend();
    const Model model(*backend, config, Scheme::parse("w4a4"), DType::kF32, true);
    std::int64_t count = 0;
    model.llama().for_each_parameter([&](const Parameter& p) { count += p.value.numel(); });
    EXPECT_EQ(count, config.parameters());
  }
}

TEST(ModelConfig, WrongShapesAreRefused) {
  const auto broken = [](auto change) {
    ModelConfig config = ModelConfig::preset("nano", 256);
    change(config);
    return config;
  };
  EXPECT_THROW(broken([](ModelConfig& c) { c.kv_heads = 3; }).validate(), Error);
  EXPECT_THROW(broken([](ModelConfig& c) { c.head_dim = 63; }).validate(), Error);
  EXPECT_THROW(broken([](ModelConfig& c) { c.layers = 0; }).validate(), Error);
  EXPECT_THROW(broken([](ModelConfig& c) { c.hidden = 1 << 20; }).validate(), Error);
  EXPECT_THROW(broken([](ModelConfig& c) { c.rope_theta = 0; }).validate(), Error);
  EXPECT_THROW(ModelConfig::preset("31M", 256), Error);
}

TEST(ModelConfig, TheLargestShapesAreThoseOfTheLimits) {
  ModelConfig config;
  config.layers = kMostLayers;
  config.width = config.hidden = kMostInputs;
  config.heads = config.kv_heads = kMostHeads;
  config.head_dim = 2;
  config.vocab = kMostVocab;
  config.max_positions = kMostPositions;
  EXPECT_NO_THROW(config.validate());
  using Member = std::int64_t ModelConfig::*;
  for (const Member member :
       {&ModelConfig::layers, &ModelConfig::width, &ModelConfig::heads, &ModelConfig::kv_heads,
        &ModelConfig::hidden, &ModelConfig::vocab, &ModelConfig::max_positions}) {
    ModelConfig larger = config;
    ++(larger.*member);
    EXPECT_THROW(larger.validate(), Error);
  }
  config.head_dim = 4;
  EXPECT_THROW(config.validate(), Error);
}

}  // namespace
}  // namespace quest
