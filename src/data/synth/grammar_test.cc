// Tests of the grammar and of the stories: exact expectations, and one derivation for each text.
#include "data/synth/grammar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/file.h"
#include "data/synth/corpus.h"
#include "data/synth/grammar_proof.h"
#include "data/test_folder.h"

namespace quest {
namespace {

TEST(Grammar, ExpectationOfASmallGrammarIsTheHandComputedOne) {
  // Names of 2 or 4 bytes; in one half of the texts another name follows.
  const Grammar grammar(R"(
table who: name | he
| Al | he
| Beth | she
| Carl | he
| Dora | she
rule story
- {a=who.name}[more].
rule more
3- \e
1- \sand {b=who.name!a}
)");
  const auto expected = grammar.expectation();
  const double more_bits = 0.75 * std::log2(4.0 / 3.0) + 0.25 * (2.0 + std::log2(3.0));
  EXPECT_NEAR(expected.bits, 2.0 + more_bits, 1e-12);
  EXPECT_NEAR(expected.bytes, 3.5 + 1.0 + 0.25 * (5.0 + 3.5), 1e-12);
}

TEST(Grammar, ReferencesAgreeWithWhatWasDrawn) {
  const Grammar grammar(R"(
table who: name | he
| Anna | she
| Ben | he
table thing: is
| hat
rule story
- {a=who.name} and {b=who.name!a}: {a.he}, {b.He}, {c=thing.is}, {c.Is}.
)");
  std::set<std::string> texts;
  for (std::uint32_t i = 0; i < 50; ++i) {
    Rng rng(1, RngPurpose::kTest, i);
    const auto sample = grammar.generate(rng);
    EXPECT_EQ(sample.bits, 1.0);
    texts.insert(sample.text);
  }
  EXPECT_EQ(texts, (std::set<std::string>{"Anna and Ben: she, He, hat, Hat.",
                                          "Ben and Anna: he, She, hat, Hat."}));
}

TEST(Grammar, VariablesBoundInAlternativesMixInTheExpectation) {
  const Grammar grammar(R"(
table short: is
| a
table long: is
| bbbbb
rule story
- [pick].{x.is}
rule pick
1- {x=short.is}
3- {x=long.is}
)");
  EXPECT_NEAR(grammar.expectation().bytes, 1.0 + 2.0 * (0.25 * 1.0 + 0.75 * 5.0), 1e-12);
}

TEST(Grammar, MistakesAreRefused) {
  for (const char* source :
       {"", "rule story\n", "nonsense", "rule story\n- [absent]", "rule story\n- {x.y}",
        "rule story\n- {x=absent.y}", "rule story\n- {x", "rule story\n- [story]",
        "rule story\n- a \\q", "table t: a | b\n| c\nrule story\n- x", "rule story\n- a / / b",
        "table t: a\n| b\nrule story\n- {x=t.b}", "rule story\n0- a",
        "rule story\n- a\nrule b\n- c",
        "table t: a\n| b\nrule story\n- [x]{v.a}\nrule x\n- {v=t.a}\n- c",
        "table t: a\n| b\nrule story\n- {v=t.a}{w=t.a!v}"}) {
    EXPECT_THROW(Grammar{source}, Error) << source;
  }
}

TEST(AmbiguitySearch, AmbiguousGrammarsAreFound) {
  for (const char* source : {"rule story\n- [a][b]\nrule a\n- x\n- xy\nrule b\n- yz\n- z",
                             "rule story\n- [a].\nrule a\n- x\n- x",
                             "rule story\n- [a][b]\nrule a\n- \\e\n- x\nrule b\n- x\n- \\e",
                             "table t: a\n| x\n| x\nrule story\n- {v=t.a}.",
                             "table t: a | b\n| x | p\n| x | p\nrule story\n- {v=t.a}{v.b}.",
                             "table t: a\n| x\n| y\ntable u: a\n| x\n| z\nrule story\n- [p].\nrule "
                             "p\n- {v=t.a}\n- {v=u.a}"}) {
    EXPECT_TRUE(AmbiguitySearch(Grammar(source)).run().has_value()) << source;
  }
}

TEST(AmbiguitySearch, UnambiguousGrammarsAreProven) {
  for (const char* source :
       {"rule story\n- [a][b].\nrule a\n- x\n- y\nrule b\n- \\e\n- z",
        "table t: a | b\n| x | p\n| y | p\nrule story\n- {v=t.a}{v.b}.",
        "table t: a\n| x\n| y\nrule story\n- {v=t.a}[p].\nrule p\n- {v.a}a\n- {v.a}b"}) {
    EXPECT_EQ(AmbiguitySearch(Grammar(source)).run(), std::nullopt) << source;
  }
}

TEST(Stories, NoTextHasTwoDerivations) {
  EXPECT_EQ(AmbiguitySearch(story_grammar()).run(), std::nullopt);
}

TEST(Stories, DecoderRecoversTheChoicesOfEachText) {
  Decoder decoder(story_grammar());
  for (std::uint32_t i = 0; i < 300; ++i) {
    const auto sample = story(11, i);
    const auto decoded = decoder.decode(sample.text);
    EXPECT_EQ(decoded.derivations, 1) << sample.text;
    EXPECT_NEAR(decoded.bits, sample.bits, 1e-9);
  }
  std::string altered = story(11, 0).text;
  altered[altered.find(' ') + 1] = '#';
  EXPECT_EQ(decoder.decode(altered).derivations, 0);
}

TEST(Stories, SampledMeansAgreeWithTheExactExpectations) {
  constexpr int kStories = 20000;
  double sum[2] = {0.0, 0.0};
  double squares[2] = {0.0, 0.0};
  for (std::uint32_t i = 0; i < kStories; ++i) {
    const auto sample = story(5, i);
    const double values[2] = {sample.bits, static_cast<double>(sample.text.size())};
    for (int k = 0; k < 2; ++k) {
      sum[k] += values[k];
      squares[k] += values[k] * values[k];
    }
  }
  const auto exact = story_grammar().expectation();
  const double expected[2] = {exact.bits, exact.bytes};
  for (int k = 0; k < 2; ++k) {
    const double mean = sum[k] / kStories;
    const double standard_error = std::sqrt((squares[k] / kStories - mean * mean) / kStories);
    EXPECT_LT(std::abs(mean - expected[k]), 4.0 * standard_error) << (k == 0 ? "bits" : "bytes");
    EXPECT_LT(standard_error, 0.005 * mean);
  }
}

TEST(Stories, TextIsPlainAndTidy) {
  std::set<std::string> stories;
  for (std::uint32_t i = 0; i < 2000; ++i) {
    const std::string text = story(3, i).text;
    stories.insert(text);
    EXPECT_TRUE(text.ends_with(".\n\n") || text.ends_with("\"\n\n")) << text;
    for (const char* flaw :
         {"  ",   " \n",  "\n ",  " .",   " ,",   "..",  "\n\n\n", "{",   "[",   "\\",
          " a a", " a e", " a i", " a o", " a u", "A a", "A e",    "A i", "A o", "A u"}) {
      EXPECT_EQ(text.find(flaw), std::string::npos) << flaw << " in " << text;
    }
    for (const char c : text) EXPECT_TRUE(c == '\n' || (c >= ' ' && c <= '~'));
  }
  EXPECT_EQ(stories.size(), 2000u);
}

TEST(SynthCorpus, IsDeterministicAndLongerOnesBeginWithShorterOnes) {
  const TestFolder folder;
  const auto report = synth_corpus(folder.path("a.txt"), 20000, 1);
  synth_corpus(folder.path("b.txt"), 40000, 1);
  synth_corpus(folder.path("c.txt"), 20000, 2);
  const std::string a = read_file(folder.path("a.txt"));
  EXPECT_GE(a.size(), 20000u);
  EXPECT_EQ(report.bytes, static_cast<std::int64_t>(a.size()));
  EXPECT_TRUE(a.ends_with("\n\n"));
  EXPECT_TRUE(read_file(folder.path("b.txt")).starts_with(a));
  EXPECT_NE(read_file(folder.path("c.txt")).substr(0, 2000), a.substr(0, 2000));
  EXPECT_NEAR(report.bits_per_byte * report.bytes_per_story, report.bits_per_story, 1e-9);
  EXPECT_LT(report.bits_per_byte, 1.0);
}

TEST(SynthCorpus, UnwritableFileIsReported) {
  expect_mentions(error_of([] { synth_corpus("/nonexistent/a.txt", 100, 1); }), {"/nonexistent"});
}

}  // namespace
}  // namespace quest
