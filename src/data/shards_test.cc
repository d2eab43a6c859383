// Tests of token shards: what is prepared is read, and every damage is refused.
#include "data/shards.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "core/rng.h"
#include "data/test_folder.h"

namespace quest {
namespace {

/// A vocabulary above 65536: each byte stands for one token, 70000 + byte.
class WideTokenizer : public Tokenizer {
 public:
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    for (const char c : text) ids.push_back(70000 + static_cast<unsigned char>(c));
    return ids;
  }
  std::int32_t vocab_size() const override { return 70256; }
  std::int32_t end_of_text_id() const override { return 7; }
  std::string_view token_text(std::int32_t) const override { return ""; }
  const std::string& fingerprint() const override { return fingerprint_; }
  void save(const std::filesystem::path&) const override {}

 private:
  std::string fingerprint_ = "wide";
};

std::vector<std::int32_t> all_tokens(const TokenDataset& data) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(data.size()));
  data.read(0, data.size(), tokens.data());
  return tokens;
}

class ShardsTest : public ::testing::Test {
 protected:
  ShardsTest() : bytes_(load_tokenizer("bytes")) {
    folder_.write("a.txt", "first text\n");
    folder_.write("b.jsonl", "{\"text\":\"second\"}\n{\"text\":\"third\"}\n");
    out_ = folder_.path("shards");
  }

  PrepareReport prepare(std::int64_t shard_tokens = 7) {
    return prepare_shards({folder_.path("*.*")}, *bytes_, out_, shard_tokens);
  }
  std::string file(const std::string& name) const { return out_ + "/" + name; }
  void overwrite(const std::string& name, const std::string& content) const {
    std::ofstream(file(name), std::ios::binary) << content;
  }
  void expect_refused(std::initializer_list<std::string> parts) const {
    expect_mentions(error_of([&] { TokenDataset::open(out_, *bytes_); }), parts);
  }

  TestFolder folder_;
  std::string out_;
  std::unique_ptr<Tokenizer> bytes_;
};

TEST_F(ShardsTest, PreparedTokensAreReadBack) {
  const PrepareReport report = prepare();
  EXPECT_EQ(report.documents, 3);
  EXPECT_EQ(report.text_bytes, 22);
  EXPECT_EQ(report.tokens, 24);
  EXPECT_EQ(report.shards, 4);
  const auto data = TokenDataset::open(out_, *bytes_);
  EXPECT_EQ(data.size(), 24);
  EXPECT_EQ(data.text_bytes(), 22);
  EXPECT_EQ(data.documents(), 3);
  EXPECT_EQ(all_tokens(data), bytes_->encode(std::string("first text\n\0second\0third", 24)));
  EXPECT_EQ(load_tokenizer_from_folder(out_)->fingerprint(), "bytes");
  EXPECT_FALSE(std::filesystem::exists(out_ + ".tmp"));
}

TEST_F(ShardsTest, WindowsAcrossShardBordersAreRead) {
  prepare(3);
  const auto data = TokenDataset::open(out_, *bytes_);
  const auto tokens = all_tokens(data);
  for (std::int64_t start = 0; start <= data.size(); ++start) {
    for (std::int64_t count = 0; start + count <= data.size(); ++count) {
      std::vector<std::int32_t> window(static_cast<std::size_t>(count) + 1, -1);
      data.read(start, count, window.data());
      EXPECT_TRUE(std::equal(window.begin(), window.end() - 1, tokens.begin() + start));
      EXPECT_EQ(window.back(), -1);
    }
  }
}

TEST_F(ShardsTest, TextInMemoryGivesTheSameTokens) {
  prepare();
  const auto mapped = TokenDataset::open(out_, *bytes_);
  const auto held = TokenDataset::from_text({folder_.path("*.*")}, *bytes_);
  EXPECT_EQ(all_tokens(held), all_tokens(mapped));
  EXPECT_EQ(held.text_bytes(), mapped.text_bytes());
  EXPECT_EQ(all_tokens(open_dataset(out_, *bytes_)), all_tokens(mapped));
  EXPECT_EQ(open_dataset(folder_.path("a.txt"), *bytes_).size(), 11);
}

TEST_F(ShardsTest, OneDocumentGivesExactlyItsTokens) {
  const auto data = TokenDataset::from_text({folder_.path("a.txt")}, *bytes_);
  EXPECT_EQ(all_tokens(data), bytes_->encode("first text\n"));
}

TEST_F(ShardsTest, LargeVocabulariesTakeFourBytes) {
  const WideTokenizer wide;
  prepare_shards({folder_.path("*.*")}, wide, out_, 5);
  const auto tokens = all_tokens(TokenDataset::open(out_, wide));
  EXPECT_EQ(tokens[0], 70000 + 'f');
  EXPECT_EQ(tokens[11], 7);
  EXPECT_EQ(all_tokens(TokenDataset::from_text({folder_.path("*.*")}, wide)), tokens);
  EXPECT_EQ(std::filesystem::file_size(file("shard-00000.bin")), 20u);
}

TEST_F(ShardsTest, AnotherTokenizerIsRefused) {
  prepare();
  expect_mentions(error_of([&] { TokenDataset::open(out_, WideTokenizer()); }), {"bytes", "wide"});
}

TEST_F(ShardsTest, ShardsCutMissingOrExtendedAreRefused) {
  prepare();
  const std::string whole = read_file(file("shard-00001.bin"));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    overwrite("shard-00001.bin", whole.substr(0, size));
    expect_refused({"shard-00001.bin", "cut short"});
  }
  overwrite("shard-00001.bin", whole + "ab");
  expect_refused({"shard-00001.bin"});
  std::filesystem::remove(file("shard-00001.bin"));
  expect_refused({"shard-00001.bin"});
}

TEST_F(ShardsTest, AnyFlippedBitIsRefused) {
  prepare();
  for (const std::string name : {"shard-00000.bin", "shard-00003.bin", "index.json"}) {
    const std::string whole = read_file(file(name));
    for (std::size_t i = 0; i < whole.size(); ++i) {
      std::string flipped = whole;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
      overwrite(name, flipped);
      EXPECT_THROW(TokenDataset::open(out_, *bytes_), Error) << name << " byte " << i;
    }
    overwrite(name, whole);
  }
  TokenDataset::open(out_, *bytes_);
}

TEST_F(ShardsTest, IndexCutAnywhereIsRefused) {
  prepare();
  const std::string whole = read_file(file("index.json"));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    overwrite("index.json", whole.substr(0, size));
    EXPECT_THROW(TokenDataset::open(out_, *bytes_), Error) << size;
  }
}

TEST_F(ShardsTest, TokensOutsideTheVocabularyAreRefused) {
  prepare(100);
  std::string shard = read_file(file("shard-00000.bin"));
  shard[1] = 1;  // The first token becomes 256 or more.
  overwrite("shard-00000.bin", shard);
  Checksum checksum;
  checksum.update(shard.data(), shard.size());
  std::string index = read_file(file("index.json"));
  const auto replace_value = [&](const std::string& field, const std::string& value) {
    index.replace(index.find(field) + field.size(), value.size(), value);
  };
  replace_value("\"shard_checksum\": \"", checksum.hex());
  replace_value("\"checksum\": \"", "0000000000000000");
  overwrite("index.json", seal_index(index));
  expect_refused({"shard-00000.bin", "outside the vocabulary of 256"});
}

TEST_F(ShardsTest, FailedPreparationLeavesNothing) {
  folder_.write("c.txt", "bad \xFF");
  EXPECT_THROW(prepare(), Error);
  EXPECT_FALSE(std::filesystem::exists(out_));
  EXPECT_FALSE(std::filesystem::exists(out_ + ".tmp"));
}

TEST_F(ShardsTest, FullDiskIsReportedAndLeavesNothing) {
  folder_.write("big.txt", std::string(100000, 'x'));
  struct rlimit old {};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const struct rlimit small { 50000, old.rlim_max };
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of([&] { prepare(1 << 20); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  expect_mentions(error, {"cannot write", "shard-00000.bin"});
  EXPECT_FALSE(std::filesystem::exists(out_));
  EXPECT_FALSE(std::filesystem::exists(out_ + ".tmp"));
}

TEST_F(ShardsTest, UnfinishedFolderDoesNotOpenAndIsNotWrittenOver) {
  prepare();
  std::filesystem::rename(out_, out_ + ".tmp");
  std::filesystem::remove(out_ + ".tmp/index.json");
  EXPECT_THROW(TokenDataset::open(out_ + ".tmp", *bytes_), Error);
  expect_mentions(error_of([&] { prepare(); }), {"shards.tmp exists", "delete it"});
  EXPECT_TRUE(std::filesystem::exists(out_ + ".tmp/shard-00000.bin"));
}

TEST_F(ShardsTest, ExistingFoldersAreNotOverwritten) {
  prepare();
  expect_mentions(error_of([&] { prepare(); }), {"shards is not an empty folder"});
  EXPECT_EQ(TokenDataset::open(out_, *bytes_).size(), 24);
  const std::string empty = folder_.path("empty");
  std::filesystem::create_directory(empty);
  prepare_shards({folder_.path("a.txt")}, *bytes_, empty + "/");
  EXPECT_EQ(TokenDataset::open(empty, *bytes_).size(), 11);
}

}  // namespace
}  // namespace quest
