// Layers under mixed schemes: one side quantized, sides of unequal bits, and joined layers whose
// parts differ, against the closed forms, on every backend and instruction set.
#include <gtest/gtest.h>

#include "closed_form.h"
#include "golden_files.h"
#include "layer_under_test.h"

namespace quest {
namespace {

constexpr double kTolerance = 2e-5;
constexpr double kSafeMargin = 5e-5;

// What a scheme's text means, stated again.
struct Case {
  const char* scheme;
  SideForm weight;
  SideForm input;
  bool rotated;
};

constexpr SideForm kPlain{};
constexpr SideForm trust(int bits) { return {bits, MaskRule::kTrust, 1.0}; }
constexpr SideForm clip(int bits, double kappa) { return {bits, MaskRule::kClip, kappa}; }

constexpr Case kCases[] = {{"none", kPlain, kPlain, true},
                           {"w4a16", trust(4), kPlain, true},
                           {"w1a16", clip(1, 1.30), kPlain, true},
                           {"w16a4", kPlain, trust(4), true},
                           {"w2a8", trust(2), trust(8), true},
                           {"w8a2", trust(8), trust(2), true},
                           {"w1a8", clip(1, 1.30), trust(8), true},
                           {"w8a8", trust(8), trust(8), true},
                           {"w4a16 none", trust(4), kPlain, false},
                           {"w3a16 ste", {3, MaskRule::kSte, 1.0}, kPlain, true},
                           {"w16a2 none clip", kPlain, clip(2, 1.0), false}};

const Case& case_of(const std::string& scheme) {
  for (const Case& known : kCases) {
    if (known.scheme == scheme) return known;
  }
  throw std::logic_error(scheme);
}

// Normal rows that are safe from rounding under every one of `sides`.
Matrix safe_rows(std::int64_t rows, std::int64_t cols, const std::vector<SideForm>& sides,
                 const std::vector<std::int64_t>& blocks, std::uint32_t stream) {
  Matrix m(rows, cols);
  std::uint32_t attempt = 1000 * stream;
  for (std::int64_t r = 0; r < rows; ++r) {
    Matrix row;
    bool safe = false;
    while (!safe) {
      row = normal_matrix(1, cols, attempt++);
      safe = true;
      for (std::size_t i = 0; i < sides.size(); ++i) {
        if (sides[i].bits == 16) continue;
        safe = safe && round_rows(row, sides[i], blocks[i]).margin >= kSafeMargin;
      }
    }
    for (std::int64_t c = 0; c < cols; ++c) m(r, c) = row(0, c);
  }
  return m;
}

class SchemeLayer : public ::testing::TestWithParam<std::string> {
 protected:
  // A layer whose parts have these schemes, of 3, 4, 5, ... rows.
  void check(const std::vector<std::string>& schemes, std::int64_t cols) {
    std::vector<PartUnderTest> parts;
    std::vector<SideForm> inputs;
    std::vector<SideForm> weights;
    std::vector<std::int64_t> blocks;
    std::int64_t outputs = 0;
    for (const std::string& scheme : schemes) {
      const Case& part = case_of(scheme);
      parts.push_back({3 + static_cast<std::int64_t>(parts.size()), scheme});
      outputs += parts.back().rows;
      inputs.push_back(part.input);
      weights.push_back(part.weight);
      blocks.push_back(part.rotated ? rotation_block(cols) : 1);
    }
    const Matrix x = safe_rows(6, cols, inputs, blocks, 1);
    const Matrix w = safe_rows(outputs, cols, weights, blocks, 2);
    const Matrix e = normal_matrix(6, outputs, 3);
    LayerUnderTest layer(*backend_, parts, w);
    const LayerResult found = layer.run(x, e);

    Matrix d_x(6, cols);
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::int64_t end = begin + parts[i].rows;
      const LayerResult wanted = closed_form_layer(
          x, w.rows_slice(begin, end), e.columns(begin, end), inputs[i], weights[i], blocks[i]);
      EXPECT_LT(relative_error(found.y.columns(begin, end), wanted.y), kTolerance) << schemes[i];
      EXPECT_LT(relative_error(found.d_w.rows_slice(begin, end), wanted.d_w), kTolerance)
          << schemes[i];
      for (std::size_t k = 0; k < d_x.values.size(); ++k) d_x.values[k] += wanted.d_x.values[k];
      begin = end;
    }
    EXPECT_LT(relative_error(found.d_x, d_x), kTolerance) << schemes[0];
  }

  std::unique_ptr<Backend> backend_ = make_backend(GetParam());
};

TEST_P(SchemeLayer, EveryMixOfSidesIsTheClosedForm) {
  for (const Case& one : kCases) {
    for (const std::int64_t cols : {256, 192, 40, 21}) check({one.scheme}, cols);
  }
}

TEST_P(SchemeLayer, PartsOfOneJoinedLayerMayDiffer) {
  check({"w2a8", "w2a8", "w8a8"}, 192);   // one form of input, unequal weights
  check({"w8a8", "w4a16", "w8a8"}, 192);  // equal parts that are not neighbours
  check({"none", "w16a4", "w8a8"}, 192);
  check({"w4a16", "w3a16 ste", "w1a16"}, 192);
  check({"w8a8", "w16a2 none clip", "w4a16 none"}, 192);
  check({"w16a4", "w2a8", "w8a2", "none"}, 40);
}

INSTANTIATE_TEST_SUITE_P(Backends, SchemeLayer, ::testing::ValuesIn(testable_backends()),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name) {
                             if (c == ' ') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace quest
