// Tests of kernels at the sizes on which they are timed, where blocking and threads take other
// paths than at small sizes.
#include "backend/cpu/closeness.h"

namespace quest {
namespace {

// Rows at the ends, at the middle and at odd places.
std::vector<std::int64_t> sampled_rows(std::int64_t rows) {
  std::vector<std::int64_t> sampled;
  for (const std::int64_t r : {std::int64_t{0}, rows / 3, (rows - 1) / 2, rows - 1}) {
    if (sampled.empty() || r > sampled.back()) sampled.push_back(r);
  }
  return sampled;
}

TEST(SpeedCases, IntegerProductsAreExact) {
  for (const ProductCase& size : kProductSpeedCases) {
    const OwnedQuantizedRows x = random_codes(size.m, size.k, 4, 1);
    const OwnedQuantizedRows w = random_codes(size.n, size.k, 4, 2);
    on_every_backend([&](Backend& backend, const std::string& label) {
      const OwnedTensor y({size.m, size.n}, DType::kF32);
      backend.quantized_matmul(y, x.view(), w.view(), Write::kSet);
      for (const std::int64_t i : sampled_rows(size.m)) {
        for (std::int64_t j = 0; j < size.n; ++j) {
          std::int32_t sum = 0;
          for (std::int64_t k = 0; k < size.k; ++k) {
            sum += (2 * x.codes.view().row<std::int8_t>(i)[k] + 1) *
                   (2 * w.codes.view().row<std::int8_t>(j)[k] + 1);
          }
          const double scale =
              0.25 * double{x.steps.view().as<float>()[i]} * double{w.steps.view().as<float>()[j]};
          // Two products of f32 are rounded beside the exact integer.
          ASSERT_NEAR(y.view().row<float>(i)[j], scale * sum, 0x1p-22 * std::abs(scale * sum))
              << label << " M " << size.m << " N " << size.n << " K " << size.k << " at " << i
              << ", " << j;
        }
      }
    });
  }
}

TEST(SpeedCases, DenseProductsAreTheirSums) {
  for (const ProductCase& size : kProductSpeedCases) {
    const OwnedTensor x({size.m, size.k}, DType::kBF16), w({size.n, size.k}, DType::kBF16);
    fill_normal(x, 1);
    fill_normal(w, 2);
    const double bound =
        8 * std::sqrt(static_cast<double>(size.k)) * 0x1p-24 * static_cast<double>(size.k);
    on_every_backend([&](Backend& backend, const std::string& label) {
      const OwnedTensor y({size.m, size.n}, DType::kF32);
      backend.matmul(y, x, w, Write::kSet);
      for (const std::int64_t i : sampled_rows(size.m)) {
        for (std::int64_t j = 0; j < size.n; ++j) {
          double sum = 0;
          for (std::int64_t k = 0; k < size.k; ++k) sum += element(x, i, k) * element(w, j, k);
          ASSERT_NEAR(y.view().row<float>(i)[j], sum, bound)
              << label << " M " << size.m << " N " << size.n << " K " << size.k << " at " << i
              << ", " << j;
        }
      }
    });
  }
}

TEST(SpeedCases, QuantizedRowsAreTheReferences) {
  for (const RowCase& size : kRowSpeedCases) {
    const OwnedTensor x({size.rows, size.columns}, DType::kBF16);
    fill_normal(x, 1);
    const RowQuantizer quantizer =
        RowQuantizer::make(SideScheme{4}, Transform::kHadamard, size.columns);
    const OwnedQuantizedRows expected(size.rows, size.columns);
    make_reference_backend()->quantize_rows(expected.view(), x, quantizer);
    on_every_backend([&](Backend& backend, const std::string& label) {
      const OwnedQuantizedRows actual(size.rows, size.columns);
      backend.quantize_rows(actual.view(), x, quantizer);
      std::int64_t other_codes = 0;
      for (std::int64_t r = 0; r < size.rows; ++r) {
        const double step = expected.steps.view().as<float>()[r];
        ASSERT_NEAR(actual.steps.view().as<float>()[r], step, 0x1p-20 * step)
            << label << " row " << r;
        for (std::int64_t k = 0; k < size.columns; ++k) {
          const int difference = actual.codes.view().row<std::int8_t>(r)[k] -
                                 expected.codes.view().row<std::int8_t>(r)[k];
          ASSERT_LE(std::abs(difference), 1) << label << " at " << r << ", " << k;
          other_codes += difference != 0 ? 1 : 0;
        }
      }
      // A value within rounding of a border may fall on either side: about 1e-6 of all do.
      EXPECT_LE(static_cast<double>(other_codes), 3 + 2e-5 * static_cast<double>(x.view().numel()))
          << label;
    });
  }
}

TEST(SpeedCases, AttentionOfOneHeadIsTheReferences) {
  for (AttentionShape s : kAttentionSpeedCases) {
    s.batch = s.heads = s.kv_heads = 1;
    const OwnedTensor q({s.query_length, s.head_dim}, DType::kBF16);
    const OwnedTensor k({s.query_length, s.head_dim}, DType::kBF16);
    const OwnedTensor v({s.query_length, s.head_dim}, DType::kBF16);
    fill_normal(q, 1);
    fill_normal(k, 2);
    fill_normal(v, 3);
    const OwnedTensor expected({s.query_length, s.head_dim}, DType::kF32);
    const OwnedTensor log_sums({1, 1, s.query_length}, DType::kF32);
    const auto f32 = [&](Tensor from) {
      OwnedTensor to(from.shape, DType::kF32);
      make_cpu_backend(1)->cast(to, from);
      return to;
    };
    make_reference_backend()->attention(expected, log_sums, f32(q), f32(k), f32(v), s);
    on_every_backend([&](Backend& backend, const std::string& label) {
      const OwnedTensor actual({s.query_length, s.head_dim}, DType::kBF16), widened = f32(actual);
      const OwnedTensor sums({1, 1, s.query_length}, DType::kF32);
      backend.attention(actual, sums, q, k, v, s);
      // The softmax is rounded to bf16 before it meets values of size one, the output once more.
      expect_close(f32(actual), expected, 0.02, label + " T " + std::to_string(s.query_length));
      expect_close(sums, log_sums, 1e-4, label + " log sums");
    });
  }
}

}  // namespace
}  // namespace quest
