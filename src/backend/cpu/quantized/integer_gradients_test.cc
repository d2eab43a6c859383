// Tests of the gradients on integers with stochastic rounding, in every instruction set.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "backend/cpu/closeness.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/rounding/rounding_kernels.h"
#include "backend/kernel_cases.h"

namespace quest {
namespace {

const RoundingKey kKey = RoundingKeys(7, 1, 2).next();

double level(const QuantizedRows& rows, std::int64_t r, std::int64_t k) {
  return (rows.codes.row<std::int8_t>(r)[k] + 0.5) * rows.steps.as<float>()[r];
}

float as_float(Tensor x, std::int64_t r, std::int64_t c) {
  return static_cast<float>(element(x, r, c));
}

/// Normal values that differ in size from row to row and from column to column; row 1 and column 2
/// are zero where they exist.
void fill_gradient(Tensor d_y, std::uint64_t seed) {
  fill_normal(d_y, seed, 1e-4);
  for (std::int64_t m = 0; m < d_y.rows(); ++m) {
    for (std::int64_t n = 0; n < d_y.cols(); ++n) {
      const double factor = m == 1 || n == 2 ? 0.0 : std::exp2(m % 7 - n % 5);
      const auto value = static_cast<float>(factor * element(d_y, m, n));
      if (d_y.dtype == DType::kF32) {
        d_y.row<float>(m)[n] = value;
      } else {
        d_y.row<BFloat16>(m)[n] = to_bfloat16(value);
      }
    }
  }
}

class IntegerGradients : public testing::TestWithParam<BackendUnderTest> {
 protected:
  std::unique_ptr<Backend> backend_ = GetParam().make();
  std::unique_ptr<Backend> reference_ = make_reference_backend();
};

/// A row of x with factors, for the rounding kernels.
struct RowUnderTest {
  OwnedTensor x;
  OwnedTensor factors;
  GradientRow row;

  RowUnderTest(std::int64_t count, DType dtype)
      : x({1, count}, dtype), factors({(count + 31) / 32 * 32}, DType::kF32), row{} {
    fill_normal(x, static_cast<std::uint64_t>(count));
    row = {
        {x.view().data, dtype == DType::kBF16}, count, 0.3f, factors.view().as<float>(), true, 0};
    Rng rng(3, RngPurpose::kTest);
    for (std::int64_t j = 0; j < count; ++j) factor(j) = static_cast<float>(rng.uniform());
  }
  float& factor(std::int64_t j) { return factors.view().as<float>()[paired_place(j)]; }
  float value(std::int64_t j) const { return as_float(x, 0, j); }
};

constexpr std::array<std::int64_t, 14> kCounts{1,  2,   31,  32,  33,  63,  64,
                                               65, 127, 129, 255, 256, 257, 1000};

class IntegerGradientsOnCpu : public testing::TestWithParam<Isa> {};

TEST_P(IntegerGradientsOnCpu, TheLargestValuesAreThoseOfTheDefinition) {
  const RoundingKernels& kernels = *quant_kernels(GetParam()).rounding;
  for (const std::int64_t count : kCounts) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      RowUnderTest test(count, dtype);
      float largest = 0.0f;
      std::vector<float> columns(static_cast<std::size_t>(test.factors.view().numel()), 0.2f);
      kernels.largest_of_columns(columns.data(), test.row);
      for (std::int64_t j = 0; j < count; ++j) {
        largest = std::max(largest, std::abs(test.value(j) * test.factor(j)));
        ASSERT_EQ(columns[static_cast<std::size_t>(paired_place(j))],
                  std::max(0.2f, std::abs(test.value(j) * 0.3f)))
            << count << " at " << j;
      }
      EXPECT_EQ(kernels.largest_of_row(test.row), largest) << count;
    }
  }
}

TEST_P(IntegerGradientsOnCpu, RoundedValuesAreThoseOfTheDefinition) {
  constexpr std::int64_t kPlace = 70000;
  const RoundingKernels& kernels = *quant_kernels(GetParam()).rounding;
  for (const std::int64_t count : kCounts) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const bool columns_first : {true, false}) {
        RowUnderTest test(count, dtype);
        test.row.columns_first = columns_first;
        const LineRounding whole = LineRounding::make(kernels.largest_of_row(test.row));
        std::vector<LineRounding> lines(static_cast<std::size_t>(count), whole);
        std::vector<float> folded(static_cast<std::size_t>(count));
        for (std::size_t j = 0; j < folded.size(); ++j) {
          float& factor = test.factor(static_cast<std::int64_t>(j));
          const float value = test.value(static_cast<std::int64_t>(j));
          folded[j] = value * (columns_first ? factor : 0.3f);
          if (columns_first) continue;
          // A column's largest value may stand in another row.
          lines[j] = LineRounding::make(std::abs(folded[j]) * static_cast<float>(1 + j % 3));
          factor = lines[j].to_fixed;
        }
        if (columns_first) test.row.row_factor = whole.to_fixed;
        for (const std::int64_t first : {0, 256, 1280}) {
          std::vector<std::int8_t> codes(folded.size() + 1, 99);
          const std::int32_t sum =
              kernels.round(codes.data(), test.row, kKey.words.data(), kPlace, first);
          std::int32_t expected_sum = 0;
          for (std::size_t j = 0; j < folded.size(); ++j) {
            const std::uint32_t u =
                rounding_bits(kKey, kPlace, first + static_cast<std::int64_t>(j));
            const std::int32_t expected = lines[j].round(folded[j], u);
            ASSERT_EQ(codes[j], expected) << name(dtype) << ' ' << count << " at " << j;
            expected_sum += expected;
          }
          EXPECT_EQ(codes.back(), 99);
          EXPECT_EQ(sum, expected_sum);
        }
      }
    }
  }
}

TEST_P(IntegerGradients, TheyAreTheReferences) {
  for (const ProductCase& size : kProductCases) {
    const int bits = 1 + static_cast<int>(size.k % 8);
    const OwnedQuantizedRows x_rows = random_codes(size.m, size.k, bits, 3);
    const OwnedQuantizedRows w_rows = random_codes(size.n, size.k, bits, 4);
    QuantizedRows x = x_rows.view(), w = w_rows.view();
    x.bits = w.bits = bits;
    for (const DType in : {DType::kF32, DType::kBF16}) {
      const Sliced d_y(size.m, size.n, in);
      fill_gradient(d_y, 9);
      for (const DType out : {DType::kF32, DType::kBF16}) {
        for (const Write write : {Write::kSet, Write::kAdd}) {
          const Sliced actual(size.m, size.k, out, 5);
          const Sliced expected(size.m, size.k, out, 5);
          backend_->integer_matmul_grad_input(actual, d_y, w, kKey, write);
          reference_->integer_matmul_grad_input(expected, d_y, w, kKey, write);
          // The integers are the same: what is left are roundings of terms as large as what was
          // there.
          expect_close(actual, expected, 0x1p-21 * 4 + 4 * rounding(out),
                       fmt::format("d_x {} {} {}", size.m, size.n, size.k));
          EXPECT_TRUE(actual.same_margins(expected));
        }
      }
      for (const Write write : {Write::kSet, Write::kAdd}) {
        const Sliced actual(size.n, size.k, DType::kF32, 6);
        const Sliced expected(size.n, size.k, DType::kF32, 6);
        backend_->integer_matmul_grad_weight(actual, d_y, x, kKey, write);
        reference_->integer_matmul_grad_weight(expected, d_y, x, kKey, write);
        expect_close(actual, expected, 0x1p-21 * 4,
                     fmt::format("d_w {} {} {}", size.m, size.n, size.k));
      }
    }
  }
}

TEST_P(IntegerGradientsOnCpu, ResultsAreTheSameBitsInEveryInstructionSetAndOnAnyThreads) {
  // More rows than one block of the weight gradient, and columns that are no whole groups.
  constexpr std::int64_t kM = kRoundedRows + 90, kN = 260, kK = 200;
  const OwnedQuantizedRows x = random_codes(kM, kK, 8, 3);
  const OwnedQuantizedRows w = random_codes(kN, kK, 8, 4);
  OwnedTensor d_y({kM, kN}, DType::kBF16);
  fill_gradient(d_y, 9);
  const auto run = [&](Isa isa, int threads) {
    OwnedTensor both({kM + kN, kK}, DType::kF32);
    CpuBackend backend(threads, isa);
    backend.integer_matmul_grad_input(both.view().rows_slice(0, kM), d_y, w.view(), kKey,
                                      Write::kSet);
    backend.integer_matmul_grad_weight(both.view().rows_slice(kM, kM + kN), d_y, x.view(), kKey,
                                       Write::kSet);
    return both;
  };
  EXPECT_TRUE(run(GetParam(), 1).same_bytes(run(Isa::kGeneric, 3)));
}

TEST_P(IntegerGradients, TheLargestSumsDoNotOverflow) {
  constexpr std::int64_t kLongest = 32768;
  for (const float sign : {1.0f, -1.0f}) {
    for (const int code : {-128, 127}) {
      OwnedTensor d_y({2, kLongest}, DType::kF32);
      for (std::int64_t j = 0; j < 2 * kLongest; ++j) d_y.view().as<float>()[j] = sign * 127.0f;
      OwnedQuantizedRows w(kLongest, 3);
      for (std::int64_t j = 0; j < 3 * kLongest; ++j) {
        w.codes.view().as<std::int8_t>()[j] = static_cast<std::int8_t>(code);
      }
      for (std::int64_t j = 0; j < kLongest; ++j) w.steps.view().as<float>()[j] = 2.0f;
      OwnedTensor d_z({2, 3}, DType::kF32);
      backend_->integer_matmul_grad_input(d_z, d_y, w.view(), kKey, Write::kSet);
      const auto sum = static_cast<float>(std::int64_t{127} * (2 * code + 1) * kLongest);
      for (std::int64_t i = 0; i < 6; ++i) ASSERT_EQ(d_z.view().as<float>()[i], sign * sum);
    }
  }
}

TEST_P(IntegerGradients, BrokenRowsAndColumnsShowAndNothingElseDoes) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  constexpr std::int64_t kM = 5, kN = 70, kK = 40;
  const OwnedQuantizedRows x = random_codes(kM, kK, 4, 3);
  const OwnedQuantizedRows w = random_codes(kN, kK, 4, 4);
  for (const DType in : {DType::kF32, DType::kBF16}) {
    OwnedTensor d_y({kM, kN}, in);
    fill_normal(d_y, 9);
    for (const auto& [m, n, value] : {std::tuple{1, 3, nan}, {3, 68, -infinity}}) {
      if (in == DType::kF32) {
        d_y.view().row<float>(m)[n] = value;
      } else {
        d_y.view().row<BFloat16>(m)[n] = to_bfloat16(value);
      }
    }
    OwnedTensor d_x({kM, kK}, DType::kF32), d_w({kN, kK}, DType::kF32);
    backend_->integer_matmul_grad_input(d_x, d_y, w.view(), kKey, Write::kSet);
    backend_->integer_matmul_grad_weight(d_w, d_y, x.view(), kKey, Write::kSet);
    for (std::int64_t k = 0; k < kK; ++k) {
      for (std::int64_t m = 0; m < kM; ++m) {
        EXPECT_EQ(std::isnan(element(d_x, m, k)), m == 1 || m == 3) << m;
      }
      for (std::int64_t n = 0; n < kN; ++n) {
        EXPECT_EQ(std::isnan(element(d_w, n, k)), n == 3 || n == 68) << n;
      }
    }
    OwnedTensor zero({kM, kN}, in);
    backend_->integer_matmul_grad_input(d_x, zero, w.view(), kKey, Write::kSet);
    for (std::int64_t i = 0; i < kM * kK; ++i) ASSERT_EQ(d_x.view().as<float>()[i], 0.0f);
  }
}

/// What the gradients of many keys tell: their mean and variance, element by element.
struct Moments {
  std::vector<double> sums, square_sums;
  double count = 0;

  void add(Tensor values) {
    sums.resize(static_cast<std::size_t>(values.numel()));
    square_sums.resize(sums.size());
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const double value = values.as<float>()[i];
      sums[i] += value;
      square_sums[i] += value * value;
    }
    ++count;
  }
  double mean(std::int64_t i) const { return sums[static_cast<std::size_t>(i)] / count; }
  double variance(std::int64_t i) const {
    return square_sums[static_cast<std::size_t>(i)] / count - mean(i) * mean(i);
  }
};

/// Checks the gradients of one line of values, sum over i of values[i] * level(rows, i, k), against
/// what independent roundings of this line have as mean and variance.
void check_line(const Moments& moments, std::int64_t line_index, const std::vector<double>& values,
                const QuantizedRows& rows, const std::string& what) {
  std::vector<float> folded;
  float largest = 0.0f;
  for (std::size_t i = 0; i < values.size(); ++i) {
    folded.push_back(static_cast<float>(values[i]) * (0.5f * rows.steps.as<float>()[i]));
    largest = std::max(largest, std::abs(folded.back()));
  }
  const LineRounding line = LineRounding::make(largest);
  for (std::int64_t k = 0; k < rows.codes.cols(); ++k) {
    double exact = 0, variance = 0, most = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto r = static_cast<std::int64_t>(i);
      exact += values[i] * level(rows, r, k);
      const double odd = 2 * rows.codes.row<std::int8_t>(r)[k] + 1;
      const double fixed = std::nearbyint(folded[i] * line.to_fixed) / 65536;
      const double above = fixed - std::floor(fixed);
      variance += std::pow(line.scale * odd, 2) * above * (1 - above);
      most += std::abs(odd) * line.scale;
    }
    // Of the 230 values one is beyond 5 standard errors for one choice of the seed in 8000; a
    // variance has a relative standard error of at most sqrt(2 / count).
    const std::int64_t at = line_index * rows.codes.cols() + k;
    EXPECT_NEAR(moments.mean(at), exact, 5 * std::sqrt(variance / moments.count) + 0x1p-16 * most)
        << what << line_index << ", " << k;
    EXPECT_NEAR(moments.variance(at), variance, 5 * std::sqrt(2.0 / moments.count) * variance)
        << what << line_index << ", " << k;
  }
}

TEST_P(IntegerGradients, TheMeanOverKeysIsTheExactGradientAndTheVarianceThatOfIndependentBits) {
  constexpr std::int64_t kM = 6, kN = 40, kK = 5;
  constexpr int kKeys = 4000;
  const OwnedQuantizedRows x = random_codes(kM, kK, 4, 3);
  const OwnedQuantizedRows w = random_codes(kN, kK, 4, 4);
  OwnedTensor d_y({kM, kN}, DType::kBF16);
  fill_normal(d_y, 9);
  OwnedTensor d_x({kM, kK}, DType::kF32), d_w({kN, kK}, DType::kF32);
  Moments of_x, of_w;
  for (std::uint32_t step = 0; step < kKeys; ++step) {
    RoundingKeys keys(11, step, 0);
    backend_->integer_matmul_grad_input(d_x, d_y, w.view(), keys.next(), Write::kSet);
    backend_->integer_matmul_grad_weight(d_w, d_y, x.view(), keys.next(), Write::kSet);
    of_x.add(d_x);
    of_w.add(d_w);
  }
  for (std::int64_t m = 0; m < kM; ++m) {
    std::vector<double> row;
    for (std::int64_t n = 0; n < kN; ++n) row.push_back(element(d_y, m, n));
    check_line(of_x, m, row, w.view(), "d_x ");
  }
  for (std::int64_t n = 0; n < kN; ++n) {
    std::vector<double> column;
    for (std::int64_t m = 0; m < kM; ++m) column.push_back(element(d_y, m, n));
    check_line(of_w, n, column, x.view(), "d_w ");
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, IntegerGradients, testing::ValuesIn(backends_under_test()),
                         [](const auto& isa) { return isa.param.name; });
INSTANTIATE_TEST_SUITE_P(EveryIsa, IntegerGradientsOnCpu, testing::ValuesIn(available_isas()),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
}  // namespace quest
