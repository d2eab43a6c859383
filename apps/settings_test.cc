// Tests of the settings: precedence, and each refusal's sentence.
#include "apps/settings.h"

#include <gtest/gtest.h>

#include <set>

#include "core/error.h"

namespace quest::app {
namespace {

std::vector<Assignment> test_presets(const std::string& name) {
  if (name != "nano" && name != "big") throw UsageError("there is no preset '" + name + "'");
  const std::int64_t scale = name == "big" ? 8 : 1;
  const std::string origin = "preset " + name;
  return {{"model.layers", 2 * scale, origin},
          {"model.width", 64 * scale, origin},
          {"model.heads", scale, origin},
          {"train.lr", 0.5, origin}};
}

SettingSources from_config(const std::string& toml) {
  SettingSources sources;
  sources.config_file = parse_config(toml, "run.toml");
  return sources;
}

Assignment flag(const std::string& key, const std::string& text) {
  return parse_assignment(key, text, find_setting(key)->flag);
}

// The sentence of the UsageError that `action` throws.
template <typename Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const UsageError& error) {
    EXPECT_EQ(error.exit_code(), 2);
    return error.what();
  }
  return "(accepted)";
}

std::string config_refusal(const std::string& toml) {
  return refusal([&] { resolve_settings(from_config(toml), test_presets); });
}

std::string flag_refusal(const std::string& key, const std::string& text) {
  return refusal([&] {
    TrainSettings settings;
    assign(settings, flag(key, text));
  });
}

TEST(SettingsList, EveryKeyAndFlagIsUniqueAndWellFormed) {
  std::set<std::string> keys, flags;
  for (const Setting& setting : all_settings()) {
    EXPECT_TRUE(keys.insert(setting.key).second) << setting.key;
    EXPECT_TRUE(flags.insert(setting.flag).second) << setting.flag;
    EXPECT_NE(setting.key.find('.'), std::string::npos) << setting.key;
    EXPECT_EQ(setting.flag.substr(0, 2), "--") << setting.flag;
    EXPECT_FALSE(setting.help.empty()) << setting.key;
  }
}

TEST(SettingsList, EveryKeyHasAValueOfItsOwn) {
  // Two keys wired to the same member would print the same change twice.
  TrainSettings settings;
  std::set<const void*> members;
  for (const Setting& setting : all_settings()) {
    const void* member = std::visit(
        [&](auto access) { return static_cast<const void*>(&access(settings)); }, setting.access);
    EXPECT_TRUE(members.insert(member).second) << setting.key;
  }
}

TEST(SettingsList, TheDefaultsPassTheirOwnChecks) {
  const TrainSettings defaults = resolve_settings({}, test_presets);
  EXPECT_EQ(resolve_settings(from_config(print_config(defaults)), test_presets), defaults);
}

TEST(SettingsPrecedence, APresetOverridesDefaults) {
  const TrainSettings settings = resolve_settings({}, test_presets);
  EXPECT_EQ(settings.model.width, 64);
  EXPECT_EQ(settings.train.lr, 0.5);
}

TEST(SettingsPrecedence, EachSourceOverridesTheWeakerOnes) {
  SettingSources sources = from_config("[model]\nlayers = 3\nwidth = 32\n[train]\nlr = 0.25\n");
  sources.set_arguments = {parse_set_argument("model.width=33"),
                           parse_set_argument("train.lr=0.125")};
  sources.flags = {flag("train.lr", "1e-4")};
  const TrainSettings settings = resolve_settings(sources, test_presets);
  EXPECT_EQ(settings.model.heads, 1);     // preset
  EXPECT_EQ(settings.model.layers, 3);    // file over preset
  EXPECT_EQ(settings.model.width, 33);    // --set over file
  EXPECT_EQ(settings.train.lr, 1e-4);     // flag over --set
  EXPECT_EQ(settings.train.beta2, 0.95);  // default
}

TEST(SettingsPrecedence, APresetOnTheCommandLineDoesNotUndoTheFilesOtherKeys) {
  SettingSources sources = from_config("[model]\npreset = \"nano\"\nlayers = 5\n");
  sources.flags = {flag("model.preset", "big")};
  const TrainSettings settings = resolve_settings(sources, test_presets);
  EXPECT_EQ(settings.model.preset, "big");
  EXPECT_EQ(settings.model.width, 512);
  EXPECT_EQ(settings.model.layers, 5);
}

TEST(SettingsPrecedence, TheLastOfEqualSetArgumentsCounts) {
  SettingSources sources;
  sources.set_arguments = {parse_set_argument("train.seed=1"), parse_set_argument("train.seed=2")};
  EXPECT_EQ(resolve_settings(sources, test_presets).train.seed, 2);
}

TEST(SettingsPrecedence, AStrongerSourceReplacesTheLengthOfTheRun) {
  SettingSources sources = from_config("[train]\nsteps = 100\n");
  sources.flags = {flag("train.tokens", "3e6")};
  const TrainSettings settings = resolve_settings(sources, test_presets);
  EXPECT_EQ(settings.train.steps, 0);
  EXPECT_EQ(settings.train.tokens, 3000000);
}

TEST(SettingsErrors, TwoLengthsInOneSourceAreRefused) {
  EXPECT_EQ(config_refusal("[train]\nsteps = 5\nepochs = 1.5\n"),
            "config file run.toml: train.epochs and train.steps both say how long to train; give "
            "only one");
  EXPECT_EQ(config_refusal("[train]\nsteps = 5\nepochs = 0.0\n"), "(accepted)");
}

TEST(SettingsErrors, AnUnknownKeyNamesTheNearest) {
  EXPECT_EQ(
      config_refusal("[train]\nlearning_rate = 1.0\n"),
      "config file run.toml: there is no setting 'train.learning_rate'; --print-config prints "
      "them all");
  EXPECT_EQ(refusal([] { parse_set_argument("train.foo=1"); }),
            "--set: there is no setting 'train.foo'; --print-config prints them all");
  EXPECT_EQ(refusal([] { parse_set_argument("model.steps=1"); }),
            "--set: there is no setting 'model.steps'; the nearest is 'train.steps'");
  EXPECT_EQ(config_refusal("[train]\nwarmpu = 0.1\n"),
            "config file run.toml: there is no setting 'train.warmpu'; the nearest is "
            "'train.warmup'");
  EXPECT_EQ(refusal([] { parse_set_argument("lr=1"); }),
            "--set: there is no setting 'lr'; the nearest is 'train.lr'");
  EXPECT_EQ(refusal([] { parse_set_argument("val_data=x"); }),
            "--set: there is no setting 'val_data'; the nearest is 'data.valid'");
}

TEST(SettingsErrors, AnUnknownTableIsRefusedEvenWhenItIsEmpty) {
  EXPECT_EQ(config_refusal("[modle]\n"),
            "config file run.toml: there is no table [modle]; the tables are model, scheme, data, "
            "train and run");
}

TEST(SettingsErrors, AWrongTypeIsNamed) {
  EXPECT_EQ(config_refusal("[model]\nlayers = \"six\"\n"),
            "config file run.toml: model.layers must be a whole number, not 'six'");
  EXPECT_EQ(config_refusal("[model]\nlayers = 2.5\n"),
            "config file run.toml: model.layers must be a whole number, not 2.5");
  EXPECT_EQ(config_refusal("[run]\nresume = 1\n"),
            "config file run.toml: run.resume must be true or false, not 1");
  EXPECT_EQ(config_refusal("[data]\ntrain = [\"a\"]\n"),
            "config file run.toml: data.train must be a text, not a list");
  EXPECT_EQ(config_refusal("[scheme]\nlayers = \"a=b\"\n"),
            "config file run.toml: scheme.layers must be a list of texts, not 'a=b'");
  EXPECT_EQ(config_refusal("[train]\nlr = 1979-05-27\n"),
            "config file run.toml: train.lr must be a number, a text, true, false or a list of "
            "texts or numbers");
  EXPECT_EQ(config_refusal("[scheme]\nlayers = [[\"a=b\"]]\n"),
            "config file run.toml: scheme.layers must be a number, a text, true, false or a list "
            "of texts or numbers");
  EXPECT_EQ(flag_refusal("train.steps", "12x"),
            "--steps: train.steps must be a whole number, not "
            "'12x'");
  EXPECT_EQ(flag_refusal("train.steps", ""), "--steps: train.steps must be a whole number, not ''");
  EXPECT_EQ(flag_refusal("train.steps", "1e30"),
            "--steps: train.steps must be at least 0 and at most 2147483647, not '1e30'");
  EXPECT_EQ(config_refusal("[train]\nbatch_size = 1e30\n"),
            "config file run.toml: train.batch_size must be at least 1 and at most 2147483647, not "
            "1e+30");
  EXPECT_EQ(flag_refusal("model.width", "99999999999999999999"),
            "--width: model.width must be at least 1 and at most 32768, not "
            "'99999999999999999999'");
  EXPECT_EQ(flag_refusal("train.seed", "99999999999999999999"),
            "--seed: train.seed must be at least 0 and less than 9.223372036854776e+18, not "
            "'99999999999999999999'");
  EXPECT_EQ(flag_refusal("train.lr", "fast"), "--lr: train.lr must be a number, not 'fast'");
}

TEST(SettingsErrors, AValueOutOfRangeIsNamed) {
  EXPECT_EQ(flag_refusal("train.lr", "0"), "--lr: train.lr must be greater than 0, not 0");
  EXPECT_EQ(flag_refusal("train.lr", "nan"), "--lr: train.lr must be greater than 0, not nan");
  EXPECT_EQ(flag_refusal("train.lr", "inf"), "--lr: train.lr must be greater than 0, not inf");
  EXPECT_EQ(flag_refusal("train.beta1", "1"),
            "--beta1: train.beta1 must be at least 0 and less than 1, not 1");
  EXPECT_EQ(flag_refusal("train.batch_size", "0"),
            "--batch-size: train.batch_size must be at least 1 and at most 2147483647, not 0");
  EXPECT_EQ(flag_refusal("train.seed", "-1"), "--seed: train.seed must be at least 0, not -1");
}

TEST(SettingsErrors, EveryCountOfAModelHasALimitThatIsNamed) {
  const std::pair<const char*, const char*> limits[] = {
      {"model.layers", "at least 1 and at most 4096"},
      {"model.width", "at least 1 and at most 32768"},
      {"model.heads", "at least 1 and at most 16384"},
      {"model.kv_heads", "at least 0 and at most 16384"},
      {"model.head_dim", "at least 0 and at most 32768"},
      {"model.hidden", "at least 0 and at most 32768"},
      {"model.vocab", "at least 0 and at most 16777216"},
      {"train.seq_len", "at least 1 and at most 4194304"}};
  for (const auto& [key, limit] : limits) {
    EXPECT_EQ(refusal([&, key = key] {
                TrainSettings settings;
                assign(settings, parse_set_argument(fmt::format("{}=100000000000", key)));
              }),
              fmt::format("--set: {} must be {}, not 100000000000", key, limit));
  }
  EXPECT_EQ(flag_refusal("model.rope_theta", "1"),
            "--rope-theta: model.rope_theta must be greater than 1, not 1");
  EXPECT_EQ(flag_refusal("model.norm_eps", "1"),
            "--norm-eps: model.norm_eps must be greater than 0 and less than 1, not 1");
}

TEST(SettingsErrors, AnUnknownChoiceListsTheChoices) {
  EXPECT_EQ(flag_refusal("train.schedule", "cos"),
            "--schedule: train.schedule must be one of cosine, wsd, linear or constant, not 'cos'");
  EXPECT_EQ(flag_refusal("run.dtype", "fp16"),
            "--dtype: run.dtype must be f32 or bf16, not 'fp16'");
}

TEST(SettingsErrors, BrokenTomlIsLocated) {
  const std::string sentence = config_refusal("[train]\nlr = = 3\n");
  EXPECT_EQ(sentence.substr(0, 43), "config file run.toml, line 2, column 6: Err") << sentence;
}

TEST(SettingsErrors, ASetArgumentWithoutAValueIsRefused) {
  EXPECT_EQ(refusal([] { parse_set_argument("train.lr"); }),
            "--set: 'train.lr' is not of the form key=value");
  EXPECT_EQ(refusal([] { parse_set_argument("=3"); }), "--set: '=3' is not of the form key=value");
}

TEST(Settings, WarmupIsAFractionOnlyWithAPoint) {
  TrainSettings settings;
  assign(settings, flag("train.warmup", "0.05"));
  EXPECT_EQ(settings.train.warmup, (FractionOrSteps{true, 0.05, 0}));
  assign(settings, flag("train.warmup", "1"));
  EXPECT_EQ(settings.train.warmup, (FractionOrSteps{false, 0, 1}));
  assign(settings, flag("train.warmup", "0"));
  EXPECT_EQ(settings.train.warmup, (FractionOrSteps{false, 0, 0}));
  EXPECT_NE(flag_refusal("train.warmup", "1.0"), "(accepted)");
  EXPECT_NE(flag_refusal("train.warmup", "-3"), "(accepted)");
}

TEST(Settings, AListIsReplacedAsAWhole) {
  SettingSources sources = from_config("[scheme]\nlayers = [\"a=w8a8\", \"b=none\"]\n");
  sources.set_arguments = {parse_set_argument("scheme.layers=c=w2a2,d=w4a4")};
  EXPECT_EQ(resolve_settings(sources, test_presets).scheme.layers,
            (std::vector<std::string>{"c=w2a2", "d=w4a4"}));
}

TEST(Settings, AnIntegerIsFineWhereARealNumberIsWanted) {
  EXPECT_EQ(resolve_settings(from_config("[train]\nlr = 1\n"), test_presets).train.lr, 1.0);
}

}  // namespace
}  // namespace quest::app
