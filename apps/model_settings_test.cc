// Tests of the step from settings to the library's types.
#include "apps/model_settings.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace quest::app {
namespace {

TrainSettings settings_of(const std::vector<std::string>& set_arguments) {
  SettingSources sources;
  for (const std::string& argument : set_arguments) {
    sources.set_arguments.push_back(parse_set_argument(argument));
  }
  return resolve_settings(sources, model_preset);
}

std::string refusal(const std::vector<std::string>& set_arguments) {
  try {
    const TrainSettings settings = settings_of(set_arguments);
    model_scheme(settings, model_config(settings, 256));
  } catch (const UsageError& error) {
    return error.what();
  }
  return "(accepted)";
}

TEST(ModelSettings, EveryPresetGivesTheLibrarysShape) {
  for (const std::string& name : ModelConfig::preset_names()) {
    const TrainSettings settings = settings_of({"model.preset=" + name});
    ModelConfig expected = ModelConfig::preset(name, 32000);
    expected.max_positions = settings.train.seq_len;
    EXPECT_EQ(model_config(settings, 32000), expected) << name;
  }
}

TEST(ModelSettings, TheHelpOfThePresetFlagNamesEveryPreset) {
  const std::string& help = find_setting("model.preset")->help;
  for (const std::string& name : ModelConfig::preset_names()) {
    EXPECT_NE(help.find(name), std::string::npos) << name;
  }
}

TEST(ModelSettings, APublishedSizeBringsItsRateAndLength) {
  const TrainSettings settings = settings_of({"model.preset=100M"});
  EXPECT_EQ(settings.train.lr, 6e-4);
  EXPECT_EQ(settings.train.seq_len, 512);
  EXPECT_EQ(settings_of({"model.preset=100M", "train.lr=0.5"}).train.lr, 0.5);
}

TEST(ModelSettings, EachShapeKeyReachesTheModel) {
  const ModelConfig config =
      model_config(settings_of({"model.layers=5", "model.width=96", "model.heads=6",
                                "model.kv_heads=3", "model.head_dim=32", "model.hidden=160",
                                "model.vocab=300", "model.tied_head=true", "model.rope_layout=half",
                                "model.rope_theta=5e5", "model.norm_eps=1e-6", "train.seq_len=77"}),
                   256);
  ModelConfig expected;
  expected.layers = 5;
  expected.width = 96;
  expected.heads = 6;
  expected.kv_heads = 3;
  expected.head_dim = 32;
  expected.hidden = 160;
  expected.vocab = 300;
  expected.max_positions = 77;
  expected.tied_head = true;
  expected.rope_layout = RopeLayout::kHalf;
  expected.rope_theta = 5e5;
  expected.norm_epsilon = 1e-6f;
  EXPECT_EQ(config, expected);
}

TEST(ModelSettings, TheSchemeTakesItsOverrides) {
  const TrainSettings settings =
      settings_of({"scheme.default=w2a4", "scheme.layers=blocks.0.mlp.down=w8a8"});
  const Scheme scheme = model_scheme(settings, model_config(settings, 256));
  EXPECT_EQ(scheme.base(), LinearScheme::parse("w2a4"));
  EXPECT_EQ(scheme.for_layer("blocks.0.mlp.down"), LinearScheme::parse("w8a8"));
}

TEST(ModelSettings, WhatCannotBeAModelIsRefusedAsWrongUsage) {
  EXPECT_EQ(refusal({"model.preset=nana"}),
            "there is no preset 'nana'; use nano, micro, mini, 30M, 50M, 100M, 200M, 430M or 800M");
  EXPECT_EQ(refusal({"model.width=100", "model.heads=3"}),
            "model.width = 100 is not a multiple of model.heads = 3; change one of them or set "
            "model.head_dim");
  EXPECT_EQ(refusal({"model.width=20000", "model.heads=10"}),
            "model.width = 20000 gives a hidden width of 53504, but 32768 is the most; set "
            "model.hidden or a smaller width");
  EXPECT_EQ(refusal({"model.heads=2", "model.head_dim=20000"}),
            "model.heads * model.head_dim = 40000 is too large: 32768 is the most");
  EXPECT_EQ(refusal({"model.vocab=255"}),
            "model.vocab = 255 is less than the 256 tokens of the tokenizer");
  EXPECT_NE(refusal({"model.kv_heads=7"}), "(accepted)");
  EXPECT_NE(refusal({"scheme.default=w9a9"}), "(accepted)");
  EXPECT_NE(refusal({"scheme.layers=blocks.99.mlp.down=w8a8"}), "(accepted)");
}

}  // namespace
}  // namespace quest::app
