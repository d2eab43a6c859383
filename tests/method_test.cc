// Mistakes that quantized training has seen in one layer, each excluded by comparison with the
// closed forms of the method, on every backend and instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "closed_form.h"
#include "golden_files.h"
#include "layer_under_test.h"

namespace quest {
namespace {

constexpr double kFloatTolerance = 2e-5;
// A value this far from every border, in steps, has the same code in float and in double.
constexpr double kSafeMargin = 5e-5;

std::string scheme_text(int bits, const std::string& rest) {
  const std::string number = std::to_string(bits);
  return "w" + number + "a" + number + rest;
}

// A matrix whose codes and masks no rounding error can move.
Matrix safe_matrix(std::int64_t rows, std::int64_t cols, const SideForm& side, std::int64_t block,
                   std::uint32_t stream) {
  Matrix m(rows, cols);
  std::uint32_t attempt = 1000 * stream;
  for (std::int64_t r = 0; r < rows; ++r) {
    Matrix row;
    do {
      row = normal_matrix(1, cols, attempt++);
    } while (round_rows(row, side, block).margin < kSafeMargin);
    for (std::int64_t c = 0; c < cols; ++c) m(r, c) = row(0, c);
  }
  return m;
}

// The side that a 1-bit scheme without a named estimator stands for, else trust.
SideForm default_side(int bits, bool rotated) {
  if (bits > 1) return {bits, MaskRule::kTrust, 1.0};
  return {1, MaskRule::kClip, rotated ? 1.30 : 1.25};
}

double max_abs(const Matrix& m) {
  double largest = 0.0;
  for (const double value : m.values) largest = std::max(largest, std::abs(value));
  return largest;
}

class Method : public ::testing::TestWithParam<std::string> {
 protected:
  QuantizedUnderTest quantize_as(const Matrix& x, const std::string& scheme) {
    const LinearScheme parsed = LinearScheme::parse(scheme);
    return quantize(*backend_, x, parsed.activation, parsed.transform);
  }

  std::unique_ptr<Backend> backend_ = make_backend(GetParam());
};

// --- 1. The scale ---

TEST_P(Method, OneStepServesAWholeRowAndNoOtherRow) {
  Matrix x = normal_matrix(5, 384, 1);
  const double row_sizes[] = {1.0, 300.0, 1e-3, 7.0, 0.2};
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t c = 0; c < x.cols; ++c) {
      // The last of the three blocks is much larger than the others.
      x(r, c) = static_cast<float>(x(r, c) * row_sizes[r] * (c >= 256 ? 30.0 : 1.0));
    }
  }
  for (int bits = 1; bits <= 8; ++bits) {
    const auto found = quantize_as(x, scheme_text(bits, ""));
    const auto wanted = round_rows(x, default_side(bits, true), 128);
    for (std::size_t r = 0; r < 5; ++r) {
      EXPECT_NEAR(found.steps[r] / wanted.steps[r], 1.0, 2e-6) << bits << " bits, row " << r;
    }
  }
}

TEST_P(Method, CodesOfARowDoNotDependOnItsNeighbours) {
  const Matrix x = normal_matrix(6, 192, 2);
  const auto together = quantize_as(x, "w4a4");
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const auto alone = quantize_as(x.rows_slice(r, r + 1), "w4a4");
    EXPECT_EQ(alone.codes.values, together.codes.rows_slice(r, r + 1).values) << "row " << r;
    EXPECT_EQ(alone.mask.values, together.mask.rows_slice(r, r + 1).values) << "row " << r;
    EXPECT_EQ(alone.steps[0], together.steps[static_cast<std::size_t>(r)]) << "row " << r;
  }
}

// --- 2. The root mean square ---

TEST_P(Method, RmsIsOfTheRowItselfAndNotCentred) {
  Matrix x = normal_matrix(4, 256, 3);
  for (double& value : x.values) value = static_cast<float>(value + 3.0);
  for (const char* transform : {"", " none"}) {
    for (int bits = 1; bits <= 8; ++bits) {
      const auto found = quantize_as(x, scheme_text(bits, transform));
      for (std::int64_t r = 0; r < x.rows; ++r) {
        double squares = 0.0;
        for (std::int64_t c = 0; c < x.cols; ++c) squares += x(r, c) * x(r, c);
        const double rms = std::sqrt(squares / 256.0);
        const double step = 2.0 * published_alpha(bits) * rms / (std::ldexp(1.0, bits) - 1.0);
        EXPECT_NEAR(found.steps[static_cast<std::size_t>(r)] / step, 1.0, 2e-6)
            << bits << " bits" << transform << ", row " << r;
      }
    }
  }
}

TEST_P(Method, InputsAreNotScaledByTheRmsOfWeights) {
  const Matrix w = normal_matrix(5, 128, 4);
  Matrix x = normal_matrix(3, 128, 5);
  LayerUnderTest layer(*backend_, {{5, "w8a8"}}, w);
  const Matrix y = layer.run(x, Matrix(3, 5)).y;
  for (double& value : x.values) value *= 1024.0;
  Matrix scaled = layer.run(x, Matrix(3, 5)).y;
  for (double& value : scaled.values) value /= 1024.0;
  EXPECT_LT(relative_error(scaled, y), 1e-6);
}

// --- 3. The rotation ---

TEST_P(Method, RotationActsAlongEachRowByTheDefinitionOfHadamardEntries) {
  for (const std::int64_t cols : {256, 192, 40, 24}) {
    const std::int64_t block = rotation_block(cols);
    // Row j is the unit vector of column 3 j: its rotation is a row of H.
    Matrix x(4, cols);
    for (std::int64_t r = 0; r < 4; ++r) x(r, 3 * r) = 1.0;
    const auto found = quantize_as(x, "w4a4");
    const auto wanted = round_rows(x, default_side(4, true), block);
    for (std::int64_t r = 0; r < 4; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        if (std::abs(wanted.z(r, c)) > 1e-9) {
          EXPECT_EQ(found.codes(r, c), wanted.codes(r, c)) << cols << ": " << r << ", " << c;
        } else {
          EXPECT_EQ(found.codes(r, c), 0) << "zero must stay zero outside of its block";
        }
      }
    }
  }
}

TEST_P(Method, InputsAndWeightsAreRotatedAlike) {
  for (const std::int64_t cols : {256, 192, 40}) {
    const Matrix x = normal_matrix(6, cols, 6);
    const Matrix w = normal_matrix(9, cols, 7);
    LayerUnderTest layer(*backend_, {{9, "w8a8"}}, w);
    // Two sides of relative error sqrt(8.8e-5) each.
    EXPECT_LT(relative_error(layer.run(x, Matrix(6, 9)).y, product_nt(x, w)), 0.025) << cols;
  }
}

// --- 4. Codes ---

TEST_P(Method, CodesAreClampedFloorsOfRotatedValues) {
  for (const bool rotated : {true, false}) {
    for (int bits = 1; bits <= 8; ++bits) {
      const std::int64_t block = rotated ? 64 : 1;
      const SideForm side = default_side(bits, rotated);
      Matrix x = safe_matrix(5, 192, side, block, static_cast<std::uint32_t>(bits));
      const auto found = quantize_as(x, scheme_text(bits, rotated ? "" : " none"));
      const auto wanted = round_rows(x, side, block);
      EXPECT_EQ(found.codes.values, wanted.codes.values) << bits << " bits, block " << block;
      EXPECT_EQ(found.mask.values, wanted.mask.values) << bits << " bits, block " << block;
    }
  }
}

TEST_P(Method, OutliersTakeTheOutermostLevelOnBothSides) {
  Matrix x = normal_matrix(1, 256, 8);
  x(0, 17) = 50.0;
  x(0, 90) = -50.0;
  for (int bits = 1; bits <= 8; ++bits) {
    const auto found = quantize_as(x, scheme_text(bits, " none"));
    EXPECT_EQ(found.codes(0, 17), std::ldexp(1.0, bits - 1) - 1) << bits << " bits";
    EXPECT_EQ(found.codes(0, 90), -std::ldexp(1.0, bits - 1)) << bits << " bits";
  }
}

TEST_P(Method, EveryLevelIsUsedAndNoneOfThemIsZero) {
  // A ramp from -1 to 1 among zeros enough that it reaches beyond the clip point of 8 bits.
  Matrix ramp(1, 8192);
  for (std::int64_t c = 0; c < 1024; ++c) ramp(0, 8 * c) = (static_cast<double>(c) - 511.5) / 512.0;
  for (int bits = 1; bits <= 8; ++bits) {
    const auto found = quantize_as(ramp, scheme_text(bits, " none"));
    const std::set<double> used(found.codes.values.begin(), found.codes.values.end());
    EXPECT_EQ(used.size(), std::size_t{1} << bits) << bits << " bits";
    EXPECT_EQ(*used.begin(), -std::ldexp(1.0, bits - 1));
    EXPECT_EQ(*used.rbegin(), std::ldexp(1.0, bits - 1) - 1);
  }
}

TEST_P(Method, ZerosTakeTheUpperOfTheTwoInnermostLevels) {
  Matrix x = normal_matrix(2, 128, 9);
  for (std::int64_t c = 0; c < 128; ++c) {
    if (c % 3 == 0) x(0, c) = c % 2 == 0 ? 0.0 : -0.0;
    x(1, c) = 0.0;  // a row of zeros
  }
  for (int bits = 1; bits <= 8; ++bits) {
    const auto found = quantize_as(x, scheme_text(bits, " none"));
    for (std::int64_t c = 0; c < 128; ++c) {
      if (c % 3 == 0) {
        EXPECT_EQ(found.codes(0, c), 0) << bits << " bits, column " << c;
      }
      EXPECT_EQ(found.codes(1, c), 0) << bits << " bits, column " << c;
    }
    EXPECT_NEAR(found.steps[1], 2e-8 / (std::ldexp(1.0, bits) - 1.0), 1e-13);
  }
}

TEST_P(Method, ValuesOnABorderTakeTheUpperCode) {
  // A row of +-1 has rms 1, so k steps is a value that float holds up to the rounding of the step;
  // a few small values barely move the rms. Both sides of the border must round apart.
  Matrix x(1, 4096);
  for (std::int64_t c = 0; c < x.cols; ++c) x(0, c) = c % 2 == 0 ? 1.0 : -1.0;
  const double step = quantize_as(x, "w4a4 none").steps[0];
  for (std::int64_t k = -3; k <= 3; ++k) {
    x(0, 8 * (k + 3)) = static_cast<float>(step * static_cast<double>(k) * 0.999);
    x(0, 8 * (k + 3) + 1) = static_cast<float>(step * static_cast<double>(k) * 1.001);
  }
  const auto found = quantize_as(x, "w4a4 none");
  for (std::int64_t k = 1; k <= 3; ++k) {
    EXPECT_EQ(found.codes(0, 8 * (k + 3)), k - 1);
    EXPECT_EQ(found.codes(0, 8 * (k + 3) + 1), k);
    EXPECT_EQ(found.codes(0, 8 * (3 - k)), -k);
    EXPECT_EQ(found.codes(0, 8 * (3 - k) + 1), -k - 1);
  }
}

// --- 5. and 6. Gradients ---

struct MaskCase {
  const char* text;
  MaskRule rule;
  double kappa;
};
constexpr MaskCase kMaskCases[] = {{" trust", MaskRule::kTrust, 1.0},
                                   {" clip", MaskRule::kClip, 1.0},
                                   {" kappa=1.5", MaskRule::kClip, 1.5},
                                   {" ste", MaskRule::kSte, 1.0}};

TEST_P(Method, OutputAndGradientsAreThoseOfTheClosedForm) {
  for (const std::string transform : {"", " none"}) {
    for (const MaskCase& mask : kMaskCases) {
      for (int bits = 1; bits <= 8; ++bits) {
        const std::int64_t block = transform.empty() ? 64 : 1;
        const SideForm side{bits, mask.rule, mask.kappa};
        const auto stream = static_cast<std::uint32_t>(bits);
        const Matrix x = safe_matrix(5, 192, side, block, 10 + stream);
        const Matrix w = safe_matrix(7, 192, side, block, 20 + stream);
        const Matrix e = normal_matrix(5, 7, 30);
        const std::string scheme = scheme_text(bits, transform + mask.text);
        LayerUnderTest layer(*backend_, {{7, scheme}}, w);
        const LayerResult found = layer.run(x, e);
        const LayerResult wanted = closed_form_layer(x, w, e, side, side, block);
        EXPECT_LT(relative_error(found.y, wanted.y), kFloatTolerance) << scheme;
        EXPECT_LT(relative_error(found.d_x, wanted.d_x), kFloatTolerance) << scheme;
        EXPECT_LT(relative_error(found.d_w, wanted.d_w), kFloatTolerance) << scheme;
      }
    }
  }
}

TEST_P(Method, NoGradientFlowsThroughTheScale) {
  // A gradient through the rms would be parallel to x; with the exact surrogate, the derivative
  // along any V is <mask * (E W^), V H>, whatever V, and so along x itself.
  for (int bits = 1; bits <= 4; ++bits) {
    const SideForm side{bits, MaskRule::kTrust, 1.0};
    const Matrix x = safe_matrix(4, 128, side, 128, 40);
    const Matrix w = safe_matrix(6, 128, side, 128, 41);
    const Matrix e = normal_matrix(4, 6, 42);
    LayerUnderTest layer(*backend_, {{6, scheme_text(bits, " trust")}}, w);
    const Matrix d_x = layer.run(x, e).d_x;
    const RoundedRows rounded = round_rows(x, side, 128);
    const Matrix d_z = elementwise(rounded.mask, product(e, round_rows(w, side, 128).levels));
    for (const Matrix& v : {x, normal_matrix(4, 128, 43)}) {
      const double size = std::sqrt(dot(d_z, d_z) * dot(v, v));
      EXPECT_NEAR(dot(d_x, v), dot(d_z, rotate(v, 128)), 1e-6 * size) << bits << " bits";
    }
  }
}

TEST_P(Method, TrustMasksTheShareThatGaussianValuesPredict) {
  constexpr double kShares[] = {0.1105, 0.04644, 0.01907, 0.007329};
  const Matrix x = normal_matrix(64, 1024, 44);
  for (int bits = 1; bits <= 4; ++bits) {
    const Matrix mask = quantize_as(x, scheme_text(bits, " trust")).mask;
    double passed = 0.0;
    for (const double bit : mask.values) passed += bit;
    const double share = 1.0 - passed / 65536.0;
    const double wanted = kShares[bits - 1];
    EXPECT_NEAR(share, wanted, 5.0 * std::sqrt(wanted / 65536.0)) << bits << " bits";
  }
}

TEST_P(Method, MaskedGradientsVanishInTheRotatedDomainAndNotInThatOfTheInput) {
  const SideForm side{2, MaskRule::kTrust, 1.0};
  const Matrix x = safe_matrix(6, 256, side, 128, 45);
  const Matrix w = safe_matrix(8, 256, side, 128, 46);
  LayerUnderTest layer(*backend_, {{8, "w2a2"}}, w);
  const LayerResult found = layer.run(x, normal_matrix(6, 8, 47));
  for (const auto& [gradient, values] : {std::pair{found.d_x, x}, std::pair{found.d_w, w}}) {
    const Matrix mask = round_rows(values, side, 128).mask;
    const Matrix rotated = rotate(gradient, 128);
    Matrix through = rotated;
    std::int64_t zeros_outside = 0;
    std::int64_t masked = 0;
    for (std::size_t i = 0; i < mask.values.size(); ++i) {
      masked += mask.values[i] == 0.0;
      through.values[i] = mask.values[i] == 0.0 ? rotated.values[i] : 0.0;
      zeros_outside += std::abs(gradient.values[i]) < 1e-7;
    }
    EXPECT_GT(masked, 20);
    EXPECT_LT(max_abs(through), 2e-6 * max_abs(gradient));
    EXPECT_LT(zeros_outside, 3) << "the gradient was masked in the domain of the input";
  }
}

// --- 7. Micro-batches ---

TEST_P(Method, MicroBatchesAddUpAndAreMaskedAndRotatedOnce) {
  const SideForm side{4, MaskRule::kTrust, 1.0};
  const Matrix x = safe_matrix(8, 192, side, 64, 50);
  const Matrix w = safe_matrix(7, 192, side, 64, 51);
  const Matrix e = normal_matrix(8, 7, 52);
  for (const char* scheme : {"w4a4", "w4a16", "w16a4", "none"}) {
    LayerUnderTest layer(*backend_, {{7, scheme}}, w);
    const LayerResult whole = layer.run(x, e);
    layer.zero_gradient();
    for (std::int64_t begin = 0; begin < 8; begin += 2) {
      const LayerResult part =
          layer.pass(x.rows_slice(begin, begin + 2), e.rows_slice(begin, begin + 2));
      EXPECT_LT(relative_error(part.d_x, whole.d_x.rows_slice(begin, begin + 2)), 1e-6) << scheme;
    }
    EXPECT_LT(relative_error(layer.finished_gradient(), whole.d_w), 2e-6) << scheme;
  }
}

TEST_P(Method, WeightGradientsAddUpInTheRotatedDomainOfAnIntegerProduct) {
  const SideForm side{2, MaskRule::kTrust, 1.0};
  const Matrix x = safe_matrix(5, 128, side, 128, 53);
  const Matrix w = safe_matrix(7, 128, side, 128, 54);
  const Matrix e = normal_matrix(5, 7, 55);
  LayerUnderTest layer(*backend_, {{7, "w2a2"}}, w);
  layer.prepare();
  layer.pass(x, e);
  const Matrix wanted = product_tn(e, round_rows(x, side, 128).levels);
  EXPECT_LT(relative_error(layer.unfinished_gradient(), wanted), kFloatTolerance);
}

TEST_P(Method, WeightGradientsAddUpInFloat32WhateverTheComputeType) {
  const Matrix x = normal_matrix(4, 128, 56);
  const Matrix w = normal_matrix(6, 128, 57);
  const Matrix e = normal_matrix(4, 6, 58);
  for (const char* scheme : {"w4a4", "w4a16", "none"}) {
    LayerUnderTest layer(*backend_, {{6, scheme}}, w, DType::kBF16);
    Matrix once = layer.run(x, e).d_w;
    layer.zero_gradient();
    for (int repeat = 0; repeat < 33; ++repeat) layer.pass(x, e);
    const Matrix many = layer.finished_gradient();
    for (double& value : once.values) value *= 33.0;
    // A sum kept in bf16 is off by 1e-3 and more.
    EXPECT_LT(relative_error(many, once), 5e-6) << scheme;
  }
}

// --- 8. and 9. One quantization everywhere ---

TEST_P(Method, PreparedWeightsFollowTheWeights) {
  const SideForm side{4, MaskRule::kTrust, 1.0};
  const Matrix x = safe_matrix(3, 128, side, 128, 60);
  const Matrix e = normal_matrix(3, 5, 61);
  for (const char* scheme : {"w4a4", "w4a16", "w16a4", "none"}) {
    LayerUnderTest reused(*backend_, {{5, scheme}}, safe_matrix(5, 128, side, 128, 62));
    reused.run(x, e);
    const Matrix w = safe_matrix(5, 128, side, 128, 63);
    reused.set_weight(w);
    LayerUnderTest fresh(*backend_, {{5, scheme}}, w);
    const LayerResult found = reused.run(x, e);
    const LayerResult wanted = fresh.run(x, e);
    EXPECT_EQ(found.y.values, wanted.y.values) << scheme;
    EXPECT_EQ(found.d_x.values, wanted.d_x.values) << scheme;
    EXPECT_EQ(found.d_w.values, wanted.d_w.values) << scheme;
  }
}

TEST_P(Method, FewRowsAndManyRowsGiveTheSameOutputs) {
  // Backends may use other kernels for a handful of rows (decoding) than for a batch (training).
  const Matrix w = normal_matrix(33, 256, 64);
  const Matrix x = normal_matrix(70, 256, 65);
  for (int bits = 1; bits <= 8; ++bits) {
    LayerUnderTest layer(*backend_, {{33, scheme_text(bits, "")}}, w);
    const Matrix together = layer.run(x, Matrix(70, 33)).y;
    for (const std::int64_t rows : {1, 2, 5, 17}) {
      const Matrix some = layer.pass(x.rows_slice(3, 3 + rows), Matrix(rows, 33)).y;
      EXPECT_LT(relative_error(some, together.rows_slice(3, 3 + rows)), 1e-6)
          << bits << " bits, " << rows << " rows";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, Method, ::testing::ValuesIn(testable_backends()),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name) {
                             if (c == ' ') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace quest
