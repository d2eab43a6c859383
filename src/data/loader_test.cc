// Tests of batches: purity, coverage of epochs, accumulation, evaluation windows, given orders.
#include "data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "data/test_folder.h"

namespace quest {
namespace {

/// Token i has the value i: a window shows where it was read.
class CountingTokenizer : public Tokenizer {
 public:
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids(text.size());
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i);
    return ids;
  }
  std::int32_t vocab_size() const override { return 1 << 20; }
  std::int32_t end_of_text_id() const override { return 0; }
  std::string_view token_text(std::int32_t) const override { return "x"; }
  const std::string& fingerprint() const override { return fingerprint_; }
  void save(const std::filesystem::path&) const override {}

 private:
  std::string fingerprint_ = "counting";
};

TokenDataset counting(std::size_t tokens) {
  const TestFolder folder;
  return TokenDataset::from_text({folder.write("a.txt", std::string(tokens, 'x'))},
                                 CountingTokenizer());
}

void expect_shifted(const Batch& batch) {
  for (std::size_t i = 0; i < batch.input_tokens.size(); ++i) {
    EXPECT_EQ(batch.target_tokens[i], batch.input_tokens[i] + 1);
    if (i % static_cast<std::size_t>(batch.seq_len) != 0) {
      EXPECT_EQ(batch.input_tokens[i], batch.input_tokens[i - 1] + 1);
    }
  }
}

TEST(KeyedPermutation, IsAPermutationOfEverySize) {
  for (std::int64_t size :
       {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4097}) {
    for (std::uint32_t epoch = 0; epoch < 3; ++epoch) {
      const KeyedPermutation permutation(size, 5, epoch);
      std::set<std::int64_t> images;
      for (std::int64_t i = 0; i < size; ++i) {
        const std::int64_t image = permutation(i);
        EXPECT_GE(image, 0);
        EXPECT_LT(image, size);
        images.insert(image);
      }
      EXPECT_EQ(images.size(), static_cast<std::size_t>(size));
    }
  }
}

TEST(KeyedPermutation, LargeSizesStayInside) {
  const std::int64_t size = (std::int64_t{1} << 40) + 12345;
  const KeyedPermutation permutation(size, 9, 2);
  std::set<std::int64_t> images;
  for (std::int64_t i = 0; i < 1000; ++i) images.insert(permutation(size - 1 - i));
  EXPECT_EQ(images.size(), 1000u);
  EXPECT_GE(*images.begin(), 0);
  EXPECT_LT(*images.rbegin(), size);
}

TEST(KeyedPermutation, ImagesLookUniform) {
  // Over many keys each index goes to each place equally often. Rows and columns of the table have
  // fixed sums, so chi-squared has 11 * 11 degrees of freedom: mean 121, standard deviation 15.6.
  constexpr int kSize = 12;
  constexpr int kKeys = 12000;
  std::vector<double> counts(kSize * kSize, 0.0);
  for (std::uint64_t key = 0; key < kKeys; ++key) {
    const KeyedPermutation permutation(kSize, key, 0);
    for (int i = 0; i < kSize; ++i)
      counts[static_cast<std::size_t>(i * kSize + permutation(i))] += 1;
  }
  const double expected = static_cast<double>(kKeys) / kSize;
  double chi_squared = 0.0;
  for (const double count : counts) {
    chi_squared += (count - expected) * (count - expected) / expected;
  }
  EXPECT_LT(chi_squared, 121 + 5 * 15.6);
}

TEST(TokenLoader, EpochVisitsEveryWindowOnceInANewOrder) {
  const TokenDataset data = counting(1000);
  LoaderConfig config;
  config.batch_size = 3;
  config.seq_len = 16;
  config.seed = 4;
  const TokenLoader loader(data, config);
  const std::int64_t windows = loader.windows_per_epoch();
  EXPECT_EQ(windows, (1000 - 16) / 16);
  std::set<std::int64_t> phases;
  std::vector<std::vector<std::int64_t>> orders;
  for (std::int64_t epoch = 0; epoch < 20; ++epoch) {
    std::vector<std::int64_t> starts;
    for (std::int64_t i = 0; i < windows; ++i) {
      starts.push_back(loader.window_start(epoch * windows + i));
    }
    std::vector<std::int64_t> order = starts;
    std::sort(starts.begin(), starts.end());
    for (std::int64_t& start : order) start -= starts.front();
    orders.push_back(order);
    EXPECT_GE(starts.front(), 0);
    EXPECT_LT(starts.front(), 16);
    EXPECT_LE(starts.back() + 17, 1000);
    for (std::size_t i = 1; i < starts.size(); ++i) EXPECT_EQ(starts[i], starts[i - 1] + 16);
    phases.insert(starts.front());
  }
  EXPECT_GT(phases.size(), 8u);
  EXPECT_NE(orders[0], orders[1]);
}

TEST(TokenLoader, BatchesAreShiftedWindowsAndPure) {
  const TokenDataset data = counting(500);
  LoaderConfig config;
  config.batch_size = 4;
  config.seq_len = 8;
  config.seed = 1;
  const TokenLoader loader(data, config);
  Batch batch;
  std::map<std::int64_t, std::vector<std::int32_t>> seen;
  for (std::int64_t step = 0; step < 40; ++step) {
    loader.load(step, 0, batch);
    EXPECT_EQ(batch.inputs().shape, (Shape{4, 8}));
    EXPECT_EQ(batch.targets().shape, (Shape{4, 8}));
    expect_shifted(batch);
    seen[step] = batch.input_tokens;
  }
  const TokenLoader again(data, config);
  for (std::int64_t step = 39; step >= 0; --step) {
    again.load(step, 0, batch);
    EXPECT_EQ(batch.input_tokens, seen[step]);
  }
  config.seed = 2;
  TokenLoader(data, config).load(0, 0, batch);
  EXPECT_NE(batch.input_tokens, seen[0]);
}

/// The inputs of steps [0, 5) in the order (step, micro-batch, rank, row).
std::vector<std::int32_t> sequences(const TokenDataset& data, std::int64_t batch_size,
                                    std::int64_t grad_accum, std::int64_t world) {
  std::vector<std::int32_t> all;
  Batch batch;
  for (std::int64_t step = 0; step < 5; ++step) {
    for (std::int64_t micro = 0; micro < grad_accum; ++micro) {
      for (std::int64_t rank = 0; rank < world; ++rank) {
        const TokenLoader loader(data, {batch_size, 8, grad_accum, rank, world, 3});
        loader.load(step, micro, batch);
        all.insert(all.end(), batch.input_tokens.begin(), batch.input_tokens.end());
      }
    }
  }
  return all;
}

TEST(TokenLoader, AccumulationAndRanksSplitTheSameSequences) {
  const TokenDataset data = counting(700);
  const auto whole = sequences(data, 32, 1, 1);
  EXPECT_EQ(sequences(data, 8, 4, 1), whole);
  EXPECT_EQ(sequences(data, 8, 1, 4), whole);
  EXPECT_EQ(sequences(data, 8, 2, 2), whole);
}

TEST(TokenLoader, ShortestDataGivesItsOneWindow) {
  for (const std::size_t tokens : {9u, 10u, 15u, 16u, 17u, 24u}) {
    const TokenDataset data = counting(tokens);
    const TokenLoader loader(data, {1, 8, 1, 0, 1, 0});
    for (std::int64_t i = 0; i < 50; ++i) {
      EXPECT_GE(loader.window_start(i), 0);
      EXPECT_LE(loader.window_start(i) + 9, static_cast<std::int64_t>(tokens));
    }
  }
  const TokenDataset data = counting(8);
  expect_mentions(error_of([&] {
                    TokenLoader(data, {1, 8, 1, 0, 1, 0});
                  }),
                  {"training data", "8 tokens", "needs 9"});
}

TEST(EvalWindows, EveryTargetIsPredictedOnceInOrder) {
  for (const std::size_t tokens : {9u, 16u, 17u, 100u, 105u}) {
    const TokenDataset data = counting(tokens);
    const EvalWindows windows(data, 3, 8);
    std::vector<std::int32_t> targets;
    Batch batch;
    std::int64_t rows = 0;
    for (std::int64_t i = 0; i < windows.batches(); ++i) {
      windows.load(i, batch);
      EXPECT_TRUE(batch.rows == 3 || i + 1 == windows.batches());
      EXPECT_EQ(batch.inputs().shape, (Shape{batch.rows, 8}));
      expect_shifted(batch);
      targets.insert(targets.end(), batch.target_tokens.begin(), batch.target_tokens.end());
      rows += batch.rows;
    }
    EXPECT_EQ(rows, windows.windows());
    EXPECT_GT(targets.size() + 8, tokens - 1);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      EXPECT_EQ(targets[i], static_cast<std::int32_t>(i) + 1);
    }
  }
}

TEST(EvalWindows, SetShorterThanAWindowIsRefused) {
  const TokenDataset data = counting(8);
  expect_mentions(error_of([&] { EvalWindows(data, 1, 8); }), {"validation data", "needs 9"});
}

class BatchOrderTest : public ::testing::Test {
 protected:
  BatchOrderTest() : train_(counting(100)), val_(counting(50)) {}

  BatchOrder write(const std::vector<std::int32_t>& train, const std::vector<std::int32_t>& val) {
    const auto path = folder_.path("order.safetensors");
    write_safetensors(path, {{"train_starts", view_of(train.data(), {2, 2})},
                             {"val_starts", view_of(val.data(), {1, 2})}});
    return BatchOrder::load(path);
  }

  TestFolder folder_;
  TokenDataset train_;
  TokenDataset val_;
};

TEST_F(BatchOrderTest, RowsStartWhereTheFileSays) {
  const BatchOrder order = write({0, 91, 5, 7}, {41, 3});
  EXPECT_EQ(order.steps(), 2);
  EXPECT_EQ(order.train_rows(), 2);
  EXPECT_EQ(order.val_batches(), 1);
  EXPECT_EQ(order.val_rows(), 2);
  order.require_fits(train_, &val_, 8);
  Batch batch;
  order.load_train(train_, 8, 0, 0, 2, batch);
  EXPECT_EQ(batch.inputs().shape, (Shape{2, 8}));
  EXPECT_EQ(batch.input_tokens[0], 0);
  EXPECT_EQ(batch.input_tokens[8], 91);
  EXPECT_EQ(batch.target_tokens[15], 99);
  expect_shifted(batch);
  order.load_train(train_, 8, 1, 1, 1, batch);
  EXPECT_EQ(batch.rows, 1);
  EXPECT_EQ(batch.input_tokens[0], 7);
  order.load_val(val_, 8, 0, batch);
  EXPECT_EQ(batch.input_tokens[0], 41);
  EXPECT_EQ(batch.input_tokens[8], 3);
}

TEST_F(BatchOrderTest, StartsOutsideTheDataAreRefused) {
  expect_mentions(error_of([&] {
                    write({0, 1, 92, 0}, {0, 0}).require_fits(train_, &val_, 8);
                  }),
                  {"order.safetensors", "train_starts[1, 0] = 92"});
  expect_mentions(error_of([&] {
                    write({0, -1, 2, 0}, {0, 0}).require_fits(train_, &val_, 8);
                  }),
                  {"train_starts[0, 1] = -1"});
  expect_mentions(error_of([&] {
                    write({0, 1, 2, 0}, {0, 42}).require_fits(train_, &val_, 8);
                  }),
                  {"val_starts[0, 1] = 42"});
}

TEST_F(BatchOrderTest, FilesWithoutAnOrderAreRefused) {
  const auto path = folder_.path("other.safetensors");
  const std::vector<float> floats = {1, 2};
  write_safetensors(path, {{"train_starts", view_of(floats.data(), {1, 2})}});
  expect_mentions(error_of([&] { BatchOrder::load(path); }), {"train_starts", "F32", "I32"});
  write_safetensors(path, {{"starts", view_of(floats.data(), {1, 2})}});
  expect_mentions(error_of([&] { BatchOrder::load(path); }), {"train_starts"});
}

TEST(BatchOrder, TheReferenceOrderFitsItsText) {
  const std::string path =
      std::string(QUEST_REFERENCE_DATA) + "/goldens/tinytrain_llama_data_order.safetensors";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no reference data: " << path;
  const SafetensorsFile file(path);
  const Tensor& text = file.tensor("text");
  const std::string bytes(static_cast<const char*>(text.data), text.bytes());
  const TestFolder folder;
  const auto tokenizer = load_tokenizer("bytes");
  const auto train =
      TokenDataset::from_text({folder.write("train.txt", bytes.substr(0, 1003854))}, *tokenizer);
  const auto val =
      TokenDataset::from_text({folder.write("val.txt", bytes.substr(1003854))}, *tokenizer);
  const BatchOrder order = BatchOrder::load(path);
  EXPECT_EQ(order.steps(), 600);
  EXPECT_EQ(order.train_rows(), 16);
  EXPECT_EQ(order.val_batches(), 108);
  order.require_fits(train, &val, 64);
  Batch batch;
  order.load_train(train, 64, 0, 0, 16, batch);
  EXPECT_EQ(batch.target_tokens[0], batch.input_tokens[1]);
}

}  // namespace
}  // namespace quest
