// Tests of the tokenizers: exact round trips, streaming, files, and training.
#include "data/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <sstream>

#include "core/file.h"
#include "core/rng.h"
#include "data/synth/corpus.h"
#include "data/test_folder.h"

namespace quest {
namespace {

std::string corpus_text(std::size_t bytes) {
  std::string text;
  for (std::uint32_t i = 0; text.size() < bytes; ++i) text += story(1, i).text;
  return text;
}

/// One trained model for all tests of this program.
class SentencePieceTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TestFolder;
    text_ = folder_->write("corpus.txt", corpus_text(60000) + "\tTabs\tand 1234567890.\n");
    model_ = folder_->path("spm.model");
    report_ = train_sentencepiece({text_}, 500, model_);
  }
  static void TearDownTestSuite() { delete folder_; }

  static inline TestFolder* folder_ = nullptr;
  static inline std::string text_;
  static inline std::string model_;
  static inline TokenizerTraining report_;
};

const std::string kHardTexts[] = {
    "",
    " ",
    "   three leading spaces, and    inside   ",
    "\n\n\nnewlines\n\n  \n",
    "\ttabs\t\tand\r\nCRLF",
    "digits 1234567890 3.14159",
    "\xC3\xA9t\xC3\xA9 \xEF\xAC\x81 \xE2\x91\xA0 \xC2\xBD \xE2\x84\xAB e\xCC\x81",
    "\xE6\xBC\xA2\xE5\xAD\x97 \xF0\x9F\x98\x80\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80",
    "\xE2\x96\x81the mark\xE2\x96\x81\xE2\x96\x81 of spaces \xE2\x96\x81",
    "\xE2\x96\x85 reserved \xE2\x81\x87 \xEF\xBF\xBD \xEF\xBB\xBF",
    "<s> </s> <unk> <|endoftext|> <0x41> \x01\x7F",
    "\xC2\xA0no-break \xE3\x80\x80wide \xE2\x80\x8Bzero",
    "cut \xC3",
    "\xFF\xFE invalid \xE2\x96 bytes \xF0\x9F",
};

void expect_round_trip(const Tokenizer& tokenizer, const std::string& text) {
  const auto ids = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  std::string streamed;
  std::int64_t bytes = 0;
  for (const std::int32_t id : ids) {
    ASSERT_GE(id, 0);
    ASSERT_LT(id, tokenizer.vocab_size());
    EXPECT_NE(id, tokenizer.end_of_text_id());
    streamed += tokenizer.token_text(id);
    bytes += tokenizer.token_bytes(id);
  }
  EXPECT_EQ(streamed, text);
  EXPECT_EQ(bytes, static_cast<std::int64_t>(text.size()));
}

TEST(BytesTokenizer, RoundTripIsExact) {
  const auto tokenizer = load_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  EXPECT_EQ(tokenizer->end_of_text_id(), 0);
  EXPECT_EQ(tokenizer->token_bytes(0), 0);
  EXPECT_EQ(tokenizer->token_bytes(255), 1);
  EXPECT_EQ(tokenizer->encode("A\xFF"), (std::vector<std::int32_t>{65, 255}));
  for (const auto& text : kHardTexts) expect_round_trip(*tokenizer, text);
}

TEST(BytesTokenizer, SavedAndLoadedIsTheSame) {
  const TestFolder folder;
  load_tokenizer("bytes")->save(folder.path(""));
  EXPECT_EQ(load_tokenizer_from_folder(folder.path(""))->fingerprint(), "bytes");
}

TEST_F(SentencePieceTest, RoundTripIsExact) {
  const auto tokenizer = load_tokenizer(model_);
  EXPECT_EQ(tokenizer->vocab_size(), 500);
  EXPECT_EQ(tokenizer->token_bytes(tokenizer->end_of_text_id()), 0);
  for (const auto& text : kHardTexts) expect_round_trip(*tokenizer, text);
  expect_round_trip(*tokenizer, read_file(text_));
}

TEST_F(SentencePieceTest, TokensAreThoseOfTheLibraryOnTheWholeText) {
  const auto tokenizer = load_tokenizer(model_);
  sentencepiece::SentencePieceProcessor processor;
  ASSERT_TRUE(processor.Load(model_).ok());
  Rng rng(2, RngPurpose::kTest);
  const std::string pieces[] = {" ",    "  ", "\n",   "\t", "the",
                                " and", ".",  "Once", "12", "\xC3\xA9"};
  std::string text = corpus_text(20000);
  for (int i = 0; i < 5000; ++i) text += pieces[rng.below(10)];
  std::vector<int> expected;
  ASSERT_TRUE(processor.Encode(text, &expected).ok());
  EXPECT_EQ(tokenizer->encode(text), expected);
}

TEST_F(SentencePieceTest, RoundTripOfRandomBytesIsExact) {
  const auto tokenizer = load_tokenizer(model_);
  Rng rng(1, RngPurpose::kTest);
  const std::string pieces[] = {" ",    "  ",   "\n",   "\t", "the",      "\xE2\x96\x81",
                                "\xE2", "\x96", "\x81", "7",  "\xC3\xA9", "\xF0\x9F\x98\x80",
                                "\xFF", "a",    "."};
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (std::uint64_t n = rng.below(20); n > 0; --n) text += pieces[rng.below(15)];
    expect_round_trip(*tokenizer, text);
  }
}

TEST_F(SentencePieceTest, TextIsShortenedAndDigitsAreSplit) {
  const auto tokenizer = load_tokenizer(model_);
  const std::string text = story(2, 0).text;
  EXPECT_LT(tokenizer->encode(text).size(), text.size() * 2 / 3);
  for (std::int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
    const auto piece = tokenizer->token_text(id);
    EXPECT_TRUE(piece.size() == 1 || piece.find_first_of("0123456789") == std::string_view::npos);
  }
}

TEST_F(SentencePieceTest, SavedAndLoadedIsTheSame) {
  const TestFolder folder;
  const auto tokenizer = load_tokenizer(model_);
  tokenizer->save(folder.path(""));
  const auto loaded = load_tokenizer_from_folder(folder.path(""));
  EXPECT_EQ(loaded->fingerprint(), tokenizer->fingerprint());
  EXPECT_NE(loaded->fingerprint(), "bytes");
  EXPECT_EQ(loaded->encode("hello there"), tokenizer->encode("hello there"));
}

TEST_F(SentencePieceTest, AnotherModelInTheFolderIsRefused) {
  const TestFolder folder;
  load_tokenizer(model_)->save(folder.path(""));
  train_sentencepiece({text_}, 450, folder.path("tokenizer.model"));
  expect_mentions(error_of([&] { load_tokenizer_from_folder(folder.path("")); }),
                  {"names the tokenizer", "sentencepiece-450"});
}

TEST_F(SentencePieceTest, TrainingIsDeterministicAndSamplesLines) {
  const TestFolder folder;
  train_sentencepiece({text_}, 500, folder.path("again.model"));
  EXPECT_EQ(read_file(folder.path("again.model")), read_file(model_));
  EXPECT_EQ(report_.sampled_bytes, report_.text_bytes);
  const auto a = train_sentencepiece({text_}, 320, folder.path("a.model"), 1, 20000);
  EXPECT_LE(a.sampled_bytes, 20000);
  EXPECT_GT(a.sampled_bytes, 5000);
  train_sentencepiece({text_}, 320, folder.path("b.model"), 1, 20000);
  EXPECT_EQ(read_file(folder.path("a.model")), read_file(folder.path("b.model")));
  train_sentencepiece({text_}, 320, folder.path("c.model"), 2, 20000);
  EXPECT_NE(read_file(folder.path("a.model")), read_file(folder.path("c.model")));
}

TEST_F(SentencePieceTest, VocabularyThatDoesNotFitIsRefusedAndLeavesNoFile) {
  const TestFolder folder;
  const auto out = folder.path("bad.model");
  expect_mentions(error_of([&] { train_sentencepiece({text_}, 100, out); }), {"100"});
  expect_mentions(error_of([&] { train_sentencepiece({text_}, 60000, out); }),
                  {"60000", "too little", "or less"});
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(SentencePieceTest, ModelsThatChangeTextAreRefused) {
  const TestFolder folder;
  const auto train = [&](const std::string& name, const std::string& options) {
    std::ostringstream arguments;
    arguments << "--input=" << text_ << " --model_prefix=" << folder.path(name)
              << " --vocab_size=400 --model_type=bpe --minloglevel=2 " << options;
    EXPECT_TRUE(sentencepiece::SentencePieceTrainer::Train(arguments.str()).ok());
    return folder.path(name + ".model");
  };
  const auto nfkc = train("nfkc", "--byte_fallback=true");
  expect_mentions(error_of([&] { load_tokenizer(nfkc); }), {"nfkc.model", "changes text"});
  const auto plain = train("plain", "--normalization_rule_name=identity");
  expect_mentions(error_of([&] { load_tokenizer(plain); }), {"plain.model", "byte fallback"});
}

TEST(Tokenizer, MissingAndDamagedFilesAreRefused) {
  const TestFolder folder;
  expect_mentions(error_of([&] { load_tokenizer(folder.path("none.model")); }), {"none.model"});
  const auto junk = folder.write("junk.model", "not a model");
  expect_mentions(error_of([&] { load_tokenizer(junk); }), {"junk.model"});
  EXPECT_THROW(load_tokenizer_from_folder(folder.path("")), Error);
  for (const char* config : {"", "{", "[]", "{}", "{\"quest_tokenizer\":1}",
                             "{\"quest_tokenizer\":\"words\",\"fingerprint\":\"bytes\"}",
                             "{\"quest_tokenizer\":\"bytes\",\"fingerprint\":\"other\"}",
                             "{\"quest_tokenizer\":\"sentencepiece\",\"fingerprint\":\"other\"}"}) {
    folder.write("tokenizer_config.json", config);
    error_of([&] { load_tokenizer_from_folder(folder.path("")); });
  }
}

}  // namespace
}  // namespace quest
