// Tests of the CPU's quantization kernels against the reference, in every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "backend/cpu/closeness.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/fused_quantization_for_test.h"
#include "backend/kernel_cases.h"

namespace quest {
namespace {

constexpr double kEpsilon = 0x1p-24;

std::vector<RowQuantizer> quantizers(std::int64_t columns) {
  std::vector<RowQuantizer> all;
  for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
    SideScheme side;
    side.bits = bits;
    all.push_back(RowQuantizer::make(side, Transform::kHadamard, columns));
  }
  SideScheme side;
  side.bits = 1;
  side.estimator = Estimator::kClip;
  side.kappa = 1.30;
  all.push_back(RowQuantizer::make(side, Transform::kHadamard, columns));
  side.bits = 4;
  all.push_back(RowQuantizer::make(side, Transform::kNone, columns));
  side.estimator = Estimator::kSte;
  all.push_back(RowQuantizer::make(side, Transform::kHadamard, columns));
  return all;
}

/// Row r is normal with a scale of its own; the last four are zero, denormal, broken and tiny.
void fill_rows(Tensor x, std::uint64_t seed) {
  fill_normal(x, seed);
  const std::int64_t rows = x.rows();
  const auto scale_row = [&](std::int64_t r, double scale) {
    for (std::int64_t c = 0; c < x.cols(); ++c) {
      const auto value = static_cast<float>(scale * element(x, r, c));
      if (x.dtype == DType::kF32) {
        x.row<float>(r)[c] = value;
      } else {
        x.row<BFloat16>(r)[c] = to_bfloat16(value);
      }
    }
  };
  scale_row(1, 0.02);
  scale_row(2, 1e4);
  scale_row(rows - 4, 0.0);
  scale_row(rows - 3, 1e-40);
  scale_row(rows - 2, std::numeric_limits<double>::quiet_NaN());
  scale_row(rows - 1, 1e-8);
}

/// Where the rounding of f32 decides: values this close to a border may fall on either side.
struct RotatedReference {
  std::vector<double> z;
  std::vector<double> error_bound;
};

RotatedReference rotate(Tensor x, std::int64_t r, std::int64_t block) {
  const std::int64_t columns = x.cols();
  RotatedReference rotated;
  for (std::int64_t k = 0; k < columns; ++k) rotated.z.push_back(element(x, r, k));
  // Each stage of an orthonormal transform rounds to eps of the block's norm.
  const double stages = std::log2(static_cast<double>(block)) + 3;
  for (std::int64_t start = 0; start < columns; start += block) {
    double squares = 0;
    for (std::int64_t k = start; k < start + block; ++k) {
      squares += rotated.z[static_cast<std::size_t>(k)] * rotated.z[static_cast<std::size_t>(k)];
    }
    rotated.error_bound.insert(rotated.error_bound.end(), static_cast<std::size_t>(block),
                               stages * kEpsilon * std::sqrt(squares));
  }
  hadamard_transform(rotated.z.data(), columns, block);
  return rotated;
}

int mask_bit(const OwnedQuantizedRows& rows, std::int64_t r, std::int64_t k) {
  return (rows.mask.view().row<std::uint8_t>(r)[k / 8] >> (k % 8)) & 1;
}

/// Compares codes and mask where the margins allow it; returns how many values they exclude.
std::int64_t expect_same_rows(Tensor x, const OwnedQuantizedRows& actual,
                              const OwnedQuantizedRows& expected, const RowQuantizer& quantizer) {
  std::int64_t excluded = 0;
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    const float step = expected.steps.view().as<float>()[r];
    const float actual_step = actual.steps.view().as<float>()[r];
    if (std::isnan(step)) {
      EXPECT_TRUE(std::isnan(actual_step)) << "row " << r;
    } else {
      EXPECT_NEAR(actual_step, step, 1e-6f * step) << "row " << r;
    }
    const RotatedReference rotated = rotate(x, r, quantizer.block);
    double squares = 0;
    for (const double z : rotated.z) squares += z * z;
    const double rms = std::sqrt(squares / static_cast<double>(x.cols()));
    const double bound = quantizer.mask_bound(rms);
    std::int32_t sum = 0;
    for (std::int64_t k = 0; k < x.cols(); ++k) {
      const double z = rotated.z[static_cast<std::size_t>(k)];
      const double tolerance =
          rotated.error_bound[static_cast<std::size_t>(k)] + 1e-6 * std::abs(z);
      const std::int32_t code = actual.codes.view().row<std::int8_t>(r)[k];
      const std::int32_t wanted = expected.codes.view().row<std::int8_t>(r)[k];
      sum += code;
      const double border = std::abs(z / step - std::round(z / step)) * step;
      const bool exact = rms == 0.0 || std::isnan(step);
      if (exact || border > tolerance) {
        EXPECT_EQ(code, wanted) << "row " << r << " column " << k << " z/step " << z / step;
      } else {
        ++excluded;
      }
      if (exact || std::abs(std::abs(z) - bound) > tolerance) {
        EXPECT_EQ(mask_bit(actual, r, k), mask_bit(expected, r, k))
            << "row " << r << " column " << k << " z/step " << z / step;
      }
    }
    EXPECT_EQ(actual.code_sums.view().as<std::int32_t>()[r], sum) << "row " << r;
  }
  return excluded;
}

class QuantizeKernels : public testing::TestWithParam<BackendUnderTest> {
 protected:
  std::unique_ptr<Backend> backend_ = GetParam().make();
  std::unique_ptr<Backend> reference_ = make_reference_backend();
};

TEST_P(QuantizeKernels, CodesMaskStepsAndSumsAreTheReferences) {
  constexpr std::int64_t kRows = 9;
  std::int64_t excluded = 0;
  std::int64_t values = 0;
  for (const std::int64_t columns : kColumnCases) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      // A column slice: row_stride exceeds the columns.
      const OwnedTensor storage({kRows, columns + 5}, dtype);
      const Tensor x = storage.view().columns(2, 2 + columns);
      fill_rows(x, static_cast<std::uint64_t>(columns));
      for (const RowQuantizer& quantizer : quantizers(columns)) {
        SCOPED_TRACE(testing::Message()
                     << "K " << columns << ' ' << name(dtype) << " bits " << quantizer.grid.bits
                     << " estimator " << static_cast<int>(quantizer.estimator));
        OwnedQuantizedRows actual(kRows, columns);
        OwnedQuantizedRows expected(kRows, columns);
        std::memset(actual.mask.view().data, 0x5a, actual.mask.view().bytes());
        backend_->quantize_rows(actual.view(), x, quantizer);
        reference_->quantize_rows(expected.view(), x, quantizer);
        excluded += expect_same_rows(x, actual, expected, quantizer);
        values += kRows * columns;
        if (HasFailure()) return;
      }
    }
  }
  EXPECT_LT(excluded, values / 100) << "margins so wide that little was compared";
}

TEST_P(QuantizeKernels, ABrokenRowHasNoCodesNoMaskAndAStepOfNaN) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 3e38f}) {
    OwnedTensor x({1, 200}, DType::kF32);
    fill_normal(x, 3);
    x.view().as<float>()[150] = bad;
    OwnedQuantizedRows rows(1, 200);
    std::memset(rows.mask.view().data, 0xff, rows.mask.view().bytes());
    backend_->quantize_rows(rows.view(), x, quantizers(200)[3]);
    EXPECT_TRUE(std::isnan(rows.steps.view().as<float>()[0]));
    EXPECT_EQ(rows.code_sums.view().as<std::int32_t>()[0], 0);
    for (std::int64_t k = 0; k < 200; ++k) {
      EXPECT_EQ(rows.codes.view().as<std::int8_t>()[k], 0);
      EXPECT_EQ(mask_bit(rows, 0, k), 0);
    }
  }
}

TEST_P(QuantizeKernels, BlocksBeyond128Rotate) {
  OwnedTensor x({6, 1024}, DType::kF32);
  fill_rows(x, 5);
  for (const std::int64_t block : {256, 512, 1024}) {
    RowQuantizer quantizer = quantizers(1024)[3];
    quantizer.block = block;
    OwnedQuantizedRows actual(6, 1024);
    OwnedQuantizedRows expected(6, 1024);
    backend_->quantize_rows(actual.view(), x, quantizer);
    reference_->quantize_rows(expected.view(), x, quantizer);
    expect_same_rows(x, actual, expected, quantizer);
  }
}

/// |actual - expected| <= bound of f32 rounding for rotated rows; near a tie of bf16 the two may
/// round to neighbours.
void expect_near_rows(Tensor actual, Tensor expected, Tensor norm_of, double stages) {
  const double store = actual.dtype == DType::kBF16 ? 0x1p-7 : 0.0;
  for (std::int64_t r = 0; r < actual.rows(); ++r) {
    double squares = 0;
    for (std::int64_t c = 0; c < actual.cols(); ++c) {
      squares += element(norm_of, r, c) * element(norm_of, r, c);
    }
    for (std::int64_t c = 0; c < actual.cols(); ++c) {
      const double wanted = element(expected, r, c);
      const double bound =
          stages * kEpsilon * (std::sqrt(squares) + std::abs(wanted)) + store * std::abs(wanted);
      ASSERT_NEAR(element(actual, r, c), wanted, bound) << "row " << r << " column " << c;
    }
  }
}

TEST_P(QuantizeKernels, BackwardMasksRotatesAndWritesAsTheReferenceDoes) {
  constexpr std::int64_t kRows = 4;
  for (const std::int64_t columns : kColumnCases) {
    OwnedTensor mask({kRows, (columns + 7) / 8}, DType::kU8);
    Rng rng(11, RngPurpose::kTest);
    for (std::int64_t i = 0; i < mask.view().numel(); ++i) {
      mask.view().as<std::uint8_t>()[i] = static_cast<std::uint8_t>(rng.below(256));
    }
    for (const DType in : {DType::kF32, DType::kBF16}) {
      for (const DType out : {DType::kF32, DType::kBF16}) {
        for (const Write write : {Write::kSet, Write::kAdd}) {
          for (const bool with_mask : {false, true}) {
            SCOPED_TRACE(testing::Message()
                         << "K " << columns << ' ' << name(in) << " to " << name(out) << " add "
                         << (write == Write::kAdd) << " mask " << with_mask);
            OwnedTensor d_z({kRows, columns}, in);
            OwnedTensor actual({kRows, columns}, out);
            OwnedTensor expected({kRows, columns}, out);
            fill_normal(d_z, 1);
            fill_normal(actual, 2);
            fill_normal(expected, 2);
            const Tensor used_mask = with_mask ? mask.view() : Tensor();
            const std::int64_t block = hadamard_block(columns);
            backend_->quantize_rows_backward(actual, d_z, used_mask, block, write);
            reference_->quantize_rows_backward(expected, d_z, used_mask, block, write);
            expect_near_rows(actual, expected, d_z, 12);
            if (HasFailure()) return;
          }
        }
      }
    }
  }
}

TEST_P(QuantizeKernels, BackwardMayWriteOverItsInput) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const std::int64_t block : {128, 256}) {
      OwnedTensor d_z({3, 512}, dtype);
      OwnedTensor apart({3, 512}, dtype);
      fill_normal(d_z, 4);
      backend_->quantize_rows_backward(apart, d_z, Tensor(), block, Write::kSet);
      backend_->quantize_rows_backward(d_z, d_z, Tensor(), block, Write::kSet);
      EXPECT_TRUE(d_z.same_bytes(apart)) << name(dtype) << " block " << block;
    }
  }
}

TEST_P(QuantizeKernels, DequantizedRowsAndErrorsAreTheReferences) {
  for (const std::int64_t columns : kColumnCases) {
    const RowQuantizer quantizer = quantizers(columns)[2];
    OwnedTensor x({5, columns}, DType::kF32);
    fill_normal(x, 6);
    OwnedQuantizedRows rows(5, columns);
    reference_->quantize_rows(rows.view(), x, quantizer);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      OwnedTensor actual({5, columns}, dtype);
      OwnedTensor expected({5, columns}, dtype);
      backend_->dequantize_rows(actual, rows.view(), quantizer.block);
      reference_->dequantize_rows(expected, rows.view(), quantizer.block);
      expect_near_rows(actual, expected, x, 24);
    }
    double actual[3] = {1, 2, 3};
    double expected[3] = {1, 2, 3};
    backend_->quantization_error(view_of(actual, {3}), x, rows.view(), quantizer);
    reference_->quantization_error(view_of(expected, {3}), x, rows.view(), quantizer);
    EXPECT_EQ(actual[0], expected[0]) << "K " << columns;
    EXPECT_NEAR(actual[1], expected[1], 1e-5 * expected[1]) << "K " << columns;
    EXPECT_NEAR(actual[2], expected[2], 1e-6 * expected[2]) << "K " << columns;
  }
}

class QuantizeKernelsOnCpu : public testing::TestWithParam<Isa> {};

TEST_P(QuantizeKernelsOnCpu, ResultsAreTheSameBitsInEveryInstructionSetButTilesAndOnAnyThreads) {
  for (const std::int64_t columns : {24L, 129L, 640L}) {
    const std::int64_t count = 70000 / columns + 8;
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      OwnedTensor x({count, columns}, dtype);
      fill_rows(x, 9);
      const std::vector<RowQuantizer> all = quantizers(columns);
      for (const RowQuantizer& quantizer : {all[0], all[3], all[7], all[8]}) {
        const auto run = [&](Isa isa, int threads) {
          CpuBackend backend(threads, isa);
          OwnedQuantizedRows rows(count, columns);
          backend.quantize_rows(rows.view(), x, quantizer);
          OwnedTensor gradient({count, columns}, dtype);
          backend.quantize_rows_backward(gradient, x, rows.mask, quantizer.block, Write::kSet);
          return std::pair(std::move(rows), std::move(gradient));
        };
        // Tiles add up in an order of their own.
        const bool on_tiles =
            GetParam() == Isa::kAmx && dtype == DType::kBF16 && quantizer.block == 128;
        const auto one = run(GetParam(), 1);
        const auto other = run(on_tiles ? Isa::kAmx : Isa::kGeneric, 3);
        EXPECT_TRUE(one.first.same_bytes(other.first)) << columns << ' ' << name(dtype);
        EXPECT_TRUE(one.second.same_bytes(other.second)) << columns << ' ' << name(dtype);
      }
    }
  }
}

#if defined(__x86_64__)
TEST(QuantizeKernelsAvx512OnCpu, TheConversionOfTheCpuGivesTheSameBits) {
  if (!__builtin_cpu_supports("avx512bf16")) GTEST_SKIP() << "this CPU does not convert to bf16";
  constexpr std::int64_t kColumns = 48;
  // A vector without denormal values, one with them, and one without but for its last lane.
  std::vector<float> x;
  for (std::int64_t i = 0; i < kColumns; ++i) {
    const auto odd = static_cast<float>(2 * i + 1);
    const bool denormal = (i >= 16 && i < 32) || i == kColumns - 1;
    x.push_back(denormal ? odd * 0x1.357p-132f : (i % 2 != 0 ? -1.0f : 1.0f) * (1 + odd * 0x1p-8f));
  }
  x[2] = std::numeric_limits<float>::quiet_NaN();
  x[3] = -std::numeric_limits<float>::infinity();
  x[4] = std::numeric_limits<float>::max();
  x[5] = -0.0f;
  alignas(64) float scratch[scratch_columns(kColumns)];
  for (const QuantKernels* kernels : {&kQuantKernelsAvx512, &kQuantKernelsAvx512Bf16}) {
    std::vector<BFloat16> out(kColumns);
    kernels->rotate_row({{out.data(), true}, false, scratch}, {x.data(), false}, nullptr, kColumns,
                        1);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(out[i].bits, to_bfloat16(x[i]).bits) << "value " << x[i];
    }
  }
}
#endif

INSTANTIATE_TEST_SUITE_P(EveryIsa, QuantizeKernels, testing::ValuesIn(backends_under_test()),
                         [](const auto& isa) { return isa.param.name; });
INSTANTIATE_TEST_SUITE_P(EveryIsa, QuantizeKernelsOnCpu, testing::ValuesIn(available_isas()),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

void expect_fused(std::int64_t rows, std::int64_t columns, DType dtype) {
  const auto check = [&](Backend& backend, const std::string& label) {
    expect_fused_quantization(
        backend, rows, columns, dtype, quantizers(columns)[3],
        fmt::format("{} x {} {} on {}", rows, columns, type_name(dtype), label));
  };
  on_every_backend(check);
  check(*make_reference_backend(), "reference");
}

TEST(CpuQuantize, FusedWithNormOrSwigluItSetsTheSameBits) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const std::int64_t columns : kColumnCases) expect_fused(3, columns, dtype);
    expect_fused(1, 128, dtype);
    expect_fused(129, 640, dtype);
  }
}

}  // namespace
}  // namespace quest
