// Sequences that share passes against the same sequences alone.
#include "infer/sequences.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "backend/cpu/cpu_backend.h"
#include "infer/session.h"
#include "infer/tiny_model_for_test.h"

namespace quest {
namespace {

using Row = std::vector<float>;

// Five sequences of different lengths, fed piece by piece: some passes hold prompts and single
// tokens side by side.
struct Piece {
  std::int64_t slot;
  std::int64_t count;
  bool wants_logits = true;
};
const std::vector<std::vector<Piece>> kPasses{
    {{0, 9}, {1, 1}},
    {{0, 1}, {1, 9, false}, {2, 3}},
    {{3, 9, false}, {2, 1}, {0, 1}, {1, 1}},
    {{4, 1}, {3, 8}, {0, 1}},
    {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}},
};

std::vector<std::int32_t> tokens_of(std::int64_t slot) {
  return random_tokens(30, 37, static_cast<std::uint32_t>(slot));
}

class SharedPasses : public ::testing::TestWithParam<std::tuple<Isa, const char*>> {};

TEST_P(SharedPasses, GiveEachSequenceTheLogitsThatItHasAlone) {
  const auto& [isa, scheme] = GetParam();
  CpuBackend backend(1, isa);
  const auto model = tiny_model(backend, tiny_config(), scheme);
  for (const std::optional<DType> kept : {std::optional<DType>(), {DType::kBF16}, {DType::kI8}}) {
    Sequences shared(*model, {.slots = 5, .chunk = 9, .kept = kept});
    std::map<std::int64_t, std::vector<Row>> rows;
    for (const auto& pieces : kPasses) {
      std::vector<std::vector<std::int32_t>> tokens;
      std::vector<NewTokens> parts;
      for (const Piece& piece : pieces) {
        const auto all = tokens_of(piece.slot);
        const auto first = all.begin() + shared.length(piece.slot);
        tokens.emplace_back(first, first + piece.count);
      }
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        parts.push_back({pieces[i].slot, tokens[i], pieces[i].wants_logits});
      }
      const auto logits = shared.run(parts);
      std::size_t next = 0;
      for (const Piece& piece : pieces) {
        if (!piece.wants_logits) continue;
        const auto row = logits.subspan(37 * next++, 37);
        rows[piece.slot].emplace_back(row.begin(), row.end());
      }
      EXPECT_EQ(logits.size(), 37 * next);
    }
    for (std::int64_t slot = 0; slot < 5; ++slot) {
      Sequences alone(*model, {.slots = 1, .chunk = 9, .kept = kept});
      std::vector<Row> wanted;
      for (const auto& pieces : kPasses) {
        for (const Piece& piece : pieces) {
          if (piece.slot != slot) continue;
          const auto all = tokens_of(slot);
          const NewTokens part{0,
                               std::span(all).subspan(static_cast<std::size_t>(alone.length(0)),
                                                      static_cast<std::size_t>(piece.count)),
                               piece.wants_logits};
          const auto logits = alone.run({&part, 1});
          if (piece.wants_logits) wanted.emplace_back(logits.begin(), logits.end());
        }
      }
      EXPECT_EQ(rows[slot], wanted) << "sequence " << slot;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SharedPasses,
                         ::testing::Combine(::testing::ValuesIn(available_isas()),
                                            ::testing::Values("w4a4", "w1a1", "w8a8", "w3a2 none")),
                         [](const auto& test) {
                           std::string name = std::string(isa_name(std::get<0>(test.param))) + "_";
                           for (const char c : std::string(std::get<1>(test.param)))
                             name += std::isalnum(c) ? c : '_';
                           return name;
                         });

TEST(Sequences, FewerBitsOfKeysAndValuesMoveTheLogitsALittle) {
  CpuBackend backend(1);
  const auto model = tiny_model(backend, tiny_config(), "none");
  const auto tokens = random_tokens(40, 37);
  const auto logits_with = [&](std::optional<DType> kept) {
    Session session(*model, {.chunk = 10, .kept = kept});
    const auto logits = session.prefill(tokens);
    return Row(logits.begin(), logits.end());
  };
  const Row exact = logits_with(std::nullopt);
  EXPECT_EQ(logits_with(DType::kF32), exact);
  double size = 0;
  for (const float value : exact) size = std::max(size, std::abs(double{value}));
  // Errors of 2^-9 and of 1/254 of the largest value of each element read.
  for (const auto& [kept, least, most] :
       {std::tuple{DType::kBF16, 1e-6, 0.02}, {DType::kI8, 1e-6, 0.05}}) {
    const Row row = logits_with(kept);
    double worst = 0;
    for (std::size_t i = 0; i < row.size(); ++i) {
      worst = std::max(worst, std::abs(double{row[i]} - exact[i]) / size);
    }
    EXPECT_GT(worst, least) << name(kept);
    EXPECT_LT(worst, most) << name(kept);
  }
}

TEST(Sequences, ASlotThatWasEmptiedBeginsAnew) {
  CpuBackend backend(1);
  const auto model = tiny_model(backend, tiny_config(), "w4a4");
  Sequences sequences(*model, {.slots = 2, .chunk = 20});
  const auto first = random_tokens(20, 37), second = random_tokens(7, 37, 1);
  const NewTokens both[] = {{0, std::span(first).first(10)}, {1, std::span(first).first(10)}};
  sequences.run(both);
  sequences.truncate(1, 0);
  const NewTokens part{1, second};
  const auto logits = sequences.run({&part, 1});
  const Row again(logits.begin(), logits.end());
  Session session(*model, {.chunk = 20});
  const auto wanted = session.prefill(second);
  EXPECT_EQ(again, Row(wanted.begin(), wanted.end()));
  EXPECT_EQ(sequences.length(0), 10);
  EXPECT_EQ(sequences.length(1), 7);
}

}  // namespace
}  // namespace quest
