// Tests of evaluation: partial batches, counts, and agreement with the training pass.
#include "train/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "data/test_folder.h"
#include "train/tiny_run_for_test.h"

namespace quest {
namespace {

// `windows` sequences of the tiny run in batches of `rows`.
EvalSource sequences(std::int64_t windows, std::int64_t rows) {
  return {(windows + rows - 1) / rows, [=](std::int64_t index, Batch& batch) {
            batch.rows = std::min(rows, windows - index * rows);
            batch.seq_len = 8;
            batch.input_tokens.clear();
            batch.target_tokens.clear();
            for (std::int64_t r = 0; r < batch.rows; ++r) {
              fill_sequence(batch, index * rows + r, 8);
            }
          }};
}

class EvaluationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int step = 0; step < 2; ++step) trainer_.step();
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer("bytes");
  TrainerConfig config_ = tiny_run_config();
  Trainer trainer_{*backend_, config_, tiny_batches(config_)};
};

TEST_F(EvaluationTest, PartialBatchesCountTheirOwnTokensOnly) {
  const Evaluation whole = trainer_.evaluate(sequences(7, 7), *tokenizer_);
  for (const std::int64_t rows : {1, 2, 3, 4}) {
    const Evaluation parts = trainer_.evaluate(sequences(7, rows), *tokenizer_);
    EXPECT_EQ(parts.tokens, 56) << rows;
    EXPECT_EQ(parts.correct, whole.correct) << rows;
    EXPECT_EQ(parts.text_bytes, 56) << rows;
    EXPECT_NEAR(parts.loss_sum, whole.loss_sum, 1e-4) << rows;
  }
}

TEST_F(EvaluationTest, SequencesDoNotSeeEachOther) {
  double sum = 0.0;
  for (std::int64_t number = 0; number < 5; ++number) {
    const EvalSource one{1, [=](std::int64_t, Batch& batch) {
                           batch.rows = 1;
                           batch.seq_len = 8;
                           batch.input_tokens.clear();
                           batch.target_tokens.clear();
                           fill_sequence(batch, number, 8);
                         }};
    sum += trainer_.evaluate(one, *tokenizer_).loss_sum;
  }
  EXPECT_NEAR(trainer_.evaluate(sequences(5, 5), *tokenizer_).loss_sum, sum, 1e-4);
}

TEST_F(EvaluationTest, LossIsBitForBitThatOfTheTrainingPassOnTheSameTokens) {
  const BatchSource batches = tiny_batches(config_);
  const std::int64_t step = trainer_.steps_done();
  const EvalSource training_data{
      2, [&](std::int64_t index, Batch& batch) { batches(step, index, batch); }};
  const Evaluation evaluation = trainer_.evaluate(training_data, *tokenizer_);
  // Both are sums of the same 32 floats in double, whose order alone may differ.
  EXPECT_NEAR(trainer_.step().loss, evaluation.loss(), 1e-14);
}

TEST_F(EvaluationTest, EvaluatingChangesNothingInTraining) {
  Trainer other(*backend_, config_, tiny_batches(config_));
  for (int step = 0; step < 2; ++step) other.step();
  trainer_.evaluate(sequences(5, 2), *tokenizer_);
  trainer_.time_micro_batch();
  EXPECT_EQ(trainer_.step().loss, other.step().loss);
  EXPECT_EQ(weights_of(trainer_), weights_of(other));
}

TEST_F(EvaluationTest, MeasuresFollowFromTheSums) {
  Evaluation e;
  e.loss_sum = 10.0 * std::numbers::ln2;
  e.tokens = 5;
  e.correct = 2;
  e.text_bytes = 20;
  EXPECT_DOUBLE_EQ(e.loss(), 2.0 * std::numbers::ln2);
  EXPECT_DOUBLE_EQ(e.perplexity(), 4.0);
  EXPECT_DOUBLE_EQ(e.accuracy(), 0.4);
  EXPECT_DOUBLE_EQ(e.bits_per_byte(), 0.5);
}

TEST_F(EvaluationTest, UntrainedModelsGuessAmongAllTokens) {
  Trainer fresh(*backend_, config_, tiny_batches(config_));
  const Evaluation e = fresh.evaluate(sequences(8, 2), *tokenizer_);
  EXPECT_NEAR(e.loss(), std::log(256.0), 0.1);
  EXPECT_NEAR(e.bits_per_byte(), 8.0, 0.15);
}

TEST_F(EvaluationTest, BrokenWeightsAreReported) {
  trainer_.model().llama().final_norm().as<float>()[0] = std::nanf("");
  const std::string text = error_of([&] { trainer_.evaluate(sequences(2, 2), *tokenizer_); });
  expect_mentions(text, {"evaluation", "NaN"});
}

}  // namespace
}  // namespace quest
