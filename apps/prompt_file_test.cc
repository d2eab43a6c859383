// Lines of prompt files: what they may change, and what is wrong with others.
#include "apps/prompt_file.h"

#include <gtest/gtest.h>

namespace quest::app {
namespace {

const PromptDefaults kDefaults{
    {.max_tokens = 9, .sampling = {.temperature = 0.5, .top_p = 0.9, .seed = 3}}, {"END"}};

TEST(PromptLine, HasTheCommandsSettingsUnlessItChangesThem) {
  const PromptLine plain = parse_prompt_line(R"({"prompt": "One"})", kDefaults);
  EXPECT_EQ(plain.error, "");
  EXPECT_EQ(plain.text, "One");
  EXPECT_FALSE(plain.id);
  EXPECT_EQ(plain.options.max_tokens, 9);
  EXPECT_EQ(plain.options.sampling.seed, 3u);
  EXPECT_EQ(plain.stop, std::vector<std::string>{"END"});

  const PromptLine own = parse_prompt_line(
      R"({"id": "a-1", "prompt": "\u00e9", "max_tokens": 4, "temperature": 0, "top_k": 5,
          "top_p": 1, "seed": 12, "stop": ["x", "y"]})",
      kDefaults);
  EXPECT_EQ(own.error, "");
  EXPECT_EQ(own.text, "é");
  EXPECT_EQ(own.id.value(), "a-1");
  EXPECT_EQ(own.options.max_tokens, 4);
  EXPECT_EQ(own.options.sampling.temperature, 0.0);
  EXPECT_EQ(own.options.sampling.top_k, 5);
  EXPECT_EQ(own.options.sampling.top_p, 1.0);
  EXPECT_EQ(own.options.sampling.seed, 12u);
  EXPECT_EQ(own.stop, (std::vector<std::string>{"x", "y"}));
  EXPECT_FALSE(parse_prompt_line(R"({"id": 1})", kDefaults).text) << "a new document";
  for (const std::string id : {"1", "-2", "18446744073709551615", "true", "null", R"("a")"}) {
    const PromptLine line = parse_prompt_line("{\"id\": " + id + "}", kDefaults);
    EXPECT_EQ(line.error, "");
    EXPECT_EQ(line.id.value().dump(), id);
  }
}

TEST(PromptLine, SaysWhatIsWrongAndKeepsTheId) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not a JSON object"},
      {"[1]", "not a JSON object"},
      {R"({"prompt": "a)", "not a JSON object"},
      {"{\"prompt\": \"\xff\"}", "not a JSON object"},
      {R"({"prompt": ""})", "the prompt is empty"},
      {R"({"prompt": 3})", "'prompt' must be a text"},
      {R"({"promt": "a"})", "there is no key 'promt'; the nearest is 'prompt'"},
      {R"({"model": "a"})",
       "there is no key 'model'; use prompt, id, max_tokens, temperature, top_k, "
       "top_p, seed or stop"},
      {R"({"max_tokens": 0})", "'max_tokens' must be a whole number of at least 1"},
      {R"({"max_tokens": 1.5})", "'max_tokens' must be a whole number of at least 1"},
      {R"({"max_tokens": 1e30})", "'max_tokens' must be a whole number of at least 1"},
      {R"({"max_tokens": 18446744073709551615})",
       "'max_tokens' must be a whole number of at most 4611686018427387904"},
      {R"({"seed": 9223372036854775808})", "'seed' must be a whole number of at most"},
      {R"({"id": 1.10})", "'id' must be a text, a whole number"},
      {R"({"id": 18446744073709551616})", "'id' must be a text, a whole number"},
      {R"({"seed": -1})", "'seed' must be a whole number of at least 0"},
      {R"({"temperature": "hot"})", "'temperature' must be a number"},
      {R"({"temperature": -1})", "the temperature must be at least 0"},
      {R"({"top_p": 0})", "top-p must be greater than 0"},
      {R"({"stop": [1]})", "'stop' must be a text"},
      {R"({"id": [1, "a"]})", "'id' must be a text, a whole number"},
      {R"({"id": {}})", "'id' must be a text, a whole number"},
      {R"({"stop": 1})", "'stop' must be a text or a list of texts"},
  };
  for (const auto& [line, part] : cases) {
    const std::string error = parse_prompt_line(line, kDefaults).error;
    EXPECT_NE(error.find(part), std::string::npos) << line << ": " << error;
  }
  EXPECT_EQ(parse_prompt_line(R"({"prompt": 3, "id": "seven"})", kDefaults).id.value(), "seven");
}

TEST(PromptLine, RefusesDeepNestingInsteadOfRecursing) {
  constexpr std::size_t kDepth = 200'000;
  std::string object;
  for (std::size_t i = 0; i < kDepth; ++i) object += "{\"a\":";
  object += "1" + std::string(kDepth, '}');
  for (const std::string& deep :
       {std::string(kDepth, '[') + std::string(kDepth, ']'), std::string(kDepth, '['), object}) {
    for (const std::string key : {"id", "stop", "other"}) {
      const PromptLine line = parse_prompt_line("{\"" + key + "\": " + deep + "}", kDefaults);
      EXPECT_EQ(line.error, "the line nests more than 32 levels deep") << key;
      EXPECT_FALSE(line.id);
    }
  }
}

}  // namespace
}  // namespace quest::app
