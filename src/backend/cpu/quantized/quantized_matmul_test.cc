// Tests of the CPU's integer product and its gradients, in every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <initializer_list>
#include <string>
#include <utility>

#include "backend/backends_under_test.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/tiles/tile_product.h"
#include "backend/kernel_cases.h"

namespace quest {
namespace {

std::int64_t odd_product(const OwnedQuantizedRows& x, const OwnedQuantizedRows& w, std::int64_t i,
                         std::int64_t j) {
  std::int64_t total = 0;
  for (std::int64_t k = 0; k < x.codes.view().cols(); ++k) {
    total += std::int64_t{2 * x.codes.view().row<std::int8_t>(i)[k] + 1} *
             (2 * w.codes.view().row<std::int8_t>(j)[k] + 1);
  }
  return total;
}

QuantizedRows of_bits(const OwnedQuantizedRows& rows, int bits) {
  QuantizedRows view = rows.view();
  view.bits = bits;
  return view;
}

class QuantizedMatmul : public testing::TestWithParam<BackendUnderTest> {
 protected:
  std::unique_ptr<Backend> backend_ = GetParam().make();
  std::unique_ptr<Backend> reference_ = make_reference_backend();
};

TEST_P(QuantizedMatmul, TheIntegerIsExactAtEveryNumberOfBits) {
  for (const ProductCase& size : kProductCases) {
    for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
      const int low = -(1 << (bits - 1));
      const OwnedQuantizedRows x = random_codes(size.m, size.k, low, -low - 1, 1, true);
      const OwnedQuantizedRows w = random_codes(size.n, size.k, low, -low - 1, 2, true);
      OwnedTensor y({size.m, size.n}, DType::kF32);
      backend_->quantized_matmul(y, of_bits(x, bits), of_bits(w, bits), Write::kSet);
      for (std::int64_t i = 0; i < size.m; ++i) {
        for (std::int64_t j = 0; j < size.n; ++j) {
          ASSERT_EQ(y.view().row<float>(i)[j], static_cast<float>(odd_product(x, w, i, j)))
              << "M " << size.m << " N " << size.n << " K " << size.k << " bits " << bits << " at "
              << i << ", " << j;
        }
      }
    }
  }
}

TEST_P(QuantizedMatmul, TheLargestSumsDoNotOverflow) {
  constexpr std::int64_t kLongest = 32768;
  for (const std::int64_t m : {2, 40}) {
    for (const int x_code : {-128, 127}) {
      for (const int w_code : {-128, 127}) {
        const OwnedQuantizedRows x = random_codes(m, kLongest, x_code, x_code, 1, true);
        const OwnedQuantizedRows w = random_codes(3, kLongest, w_code, w_code, 1, true);
        OwnedTensor y({m, 3}, DType::kF32);
        backend_->quantized_matmul(y, x.view(), w.view(), Write::kSet);
        const auto expected =
            static_cast<float>(std::int64_t{2 * x_code + 1} * (2 * w_code + 1) * kLongest);
        for (std::int64_t i = 0; i < 3 * m; ++i) ASSERT_EQ(y.view().as<float>()[i], expected);
      }
    }
  }
}

TEST_P(QuantizedMatmul, ScalesTypesSlicesAndAddingAreTheReferences) {
  for (const ProductCase& size : kProductCases) {
    for (const int bits : {1, 2, 4}) {
      const int low = -(1 << (bits - 1));
      const OwnedQuantizedRows x = random_codes(size.m, size.k, low, -low - 1, 3, false);
      const OwnedQuantizedRows w = random_codes(size.n, size.k, low, -low - 1, 4, false);
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        for (const Write write : {Write::kSet, Write::kAdd}) {
          OwnedTensor actual({size.m, size.n + 7}, dtype);
          OwnedTensor expected({size.m, size.n + 7}, dtype);
          fill_normal(actual, 5);
          fill_normal(expected, 5);
          backend_->quantized_matmul(actual.view().columns(3, 3 + size.n), of_bits(x, bits),
                                     of_bits(w, bits), write);
          reference_->quantized_matmul(expected.view().columns(3, 3 + size.n), x.view(), w.view(),
                                       write);
          for (std::int64_t i = 0; i < size.m; ++i) {
            for (std::int64_t j = 0; j < size.n + 7; ++j) {
              const double wanted = element(expected, i, j);
              // Four roundings of f32 on terms no larger than |product| + |before|, one of bf16.
              const double eps = dtype == DType::kBF16 ? 0x1p-7 : 0x1p-22;
              const bool inside = j >= 3 && j < 3 + size.n;
              const double bound = inside ? eps * std::abs(wanted) + 0x1p-20 : 0.0;
              ASSERT_NEAR(element(actual, i, j), wanted, bound)
                  << bits << " bits, M " << size.m << " N " << size.n << " K " << size.k << ' '
                  << name(dtype) << " at " << i << ", " << j;
            }
          }
        }
      }
    }
  }
}

// Rows that few threads share and rows that many do, heads that tiles cut.
constexpr ProductCase kRotaryCases[] = {{1, 64, 64},    {3, 128, 96},    {40, 96, 128},
                                        {97, 160, 130}, {150, 320, 640}, {400, 200, 96}};

OwnedTensor angles(std::int64_t positions, std::int64_t half, double (*function)(double)) {
  OwnedTensor table({positions, half}, DType::kF32);
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * std::pow(100.0, -static_cast<double>(i) / 8);
      table.view().row<float>(p)[i] = static_cast<float>(function(angle));
    }
  }
  return table;
}

// The product, and then the rotary embedding of all but the last head: two kernels, and one.
template <typename Rows, typename Multiply, typename MultiplyRope>
void expect_rotary_end(Backend& backend, const ProductCase& size, const Rows& x, const Rows& w,
                       std::initializer_list<std::int64_t> head_dims, const Multiply& multiply,
                       const MultiplyRope& multiply_rope) {
  constexpr std::int64_t kLength = 7;
  for (const std::int64_t head_dim : head_dims) {
    const std::int64_t turned = (size.n - 1) / head_dim * head_dim;
    if (turned == 0) continue;
    const OwnedTensor cos = angles(kLength, head_dim / 2, std::cos);
    const OwnedTensor sin = angles(kLength, head_dim / 2, std::sin);
    for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        OwnedTensor actual({size.m, size.n + 7}, dtype), expected({size.m, size.n + 7}, dtype);
        fill_normal(actual, 5);
        fill_normal(expected, 5);
        const Tensor y = expected.view().columns(3, 3 + size.n);
        multiply(y, x, w);
        backend.rope(y.columns(0, turned), cos, sin, layout, 0, kLength, false);
        multiply_rope(actual.view().columns(3, 3 + size.n), x, w,
                      Rotary{cos, sin, layout, kLength, turned});
        EXPECT_TRUE(actual.same_bytes(expected))
            << backend.name() << ", M " << size.m << " N " << size.n << " K " << size.k
            << ", heads of " << head_dim << ' ' << name(dtype);
      }
    }
  }
}

TEST_P(QuantizedMatmul, TheRotaryEmbeddingAsItsEndGivesTheBitsOfTwoKernels) {
  for (const ProductCase& size : kRotaryCases) {
    for (const int bits : {1, 2, 4}) {
      const int low = -(1 << (bits - 1));
      const OwnedQuantizedRows x = random_codes(size.m, size.k, low, -low - 1, 3, false);
      const OwnedQuantizedRows w = random_codes(size.n, size.k, low, -low - 1, 4, false);
      expect_rotary_end(
          *backend_, size, of_bits(x, bits), of_bits(w, bits), {32, 64},
          [&](Tensor y, const QuantizedRows& a, const QuantizedRows& b) {
            backend_->quantized_matmul(y, a, b, Write::kSet);
          },
          [&](Tensor y, const QuantizedRows& a, const QuantizedRows& b, const Rotary& rotary) {
            backend_->quantized_matmul_rope(y, a, b, rotary);
          });
    }
  }
}

TEST_P(QuantizedMatmul, SoItDoesOfADenseProduct) {
  for (const ProductCase& size : kRotaryCases) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const OwnedTensor x({size.m, size.k}, dtype), w({size.n, size.k}, dtype);
      fill_normal(x, 1);
      fill_normal(w, 2);
      expect_rotary_end(
          *backend_, size, x.view(), w.view(), {32, 64},
          [&](Tensor y, Tensor a, Tensor b) { backend_->matmul(y, a, b, Write::kSet); },
          [&](Tensor y, Tensor a, Tensor b, const Rotary& rotary) {
            backend_->matmul_rope(y, a, b, rotary);
          });
    }
  }
}

class QuantizedMatmulOnCpu : public testing::TestWithParam<Isa> {};

// Where tiles take several passes over the sum, and end blocks of columns within heads.
TEST_P(QuantizedMatmulOnCpu, ARotaryEndTurnsEachHeadOnceInSeveralPassesAndBlocks) {
  const Bf16TileKernels* const tiles = quant_kernels(GetParam()).bf16_tiles;
  if (tiles == nullptr) GTEST_SKIP() << "no tiles of bf16 in this instruction set";
  constexpr ProductCase kCase{770, 770, 2080};
  constexpr int kThreads = 2;
  const TileBlocks blocks =
      tile_blocks({kCase.m, kCase.n, kCase.k, 2, tiles->in_vectors}, kThreads);
  EXPECT_GT(blocks.passes, 1);
  EXPECT_LT(blocks.columns, kCase.n);
  EXPECT_NE(blocks.columns % 64, 0);
  CpuBackend backend(kThreads, GetParam());
  const OwnedTensor x({kCase.m, kCase.k}, DType::kBF16), w({kCase.n, kCase.k}, DType::kBF16);
  fill_normal(x, 1);
  fill_normal(w, 2);
  expect_rotary_end(
      backend, kCase, x.view(), w.view(), {64, 128},
      [&](Tensor y, Tensor a, Tensor b) { backend.matmul(y, a, b, Write::kSet); },
      [&](Tensor y, Tensor a, Tensor b, const Rotary& rotary) {
        backend.matmul_rope(y, a, b, rotary);
      });
}

TEST_P(QuantizedMatmulOnCpu, ResultsAreTheSameBitsInEveryInstructionSetAndOnAnyThreads) {
  for (const ProductCase& size : {ProductCase{150, 200, 320}, {3, 700, 1030}}) {
    for (const auto& [w_bits, x_bits] :
         {std::pair{1, 1}, {1, 2}, {1, 3}, {1, 4}, {2, 1}, {2, 2}, {8, 8}}) {
      const int w_low = -(1 << (w_bits - 1)), x_low = -(1 << (x_bits - 1));
      const OwnedQuantizedRows x = random_codes(size.m, size.k, x_low, -x_low - 1, 6, false);
      const OwnedQuantizedRows w = random_codes(size.n, size.k, w_low, -w_low - 1, 7, false);
      const auto run = [&](Isa isa, int threads, const QuantizedRows& a, const QuantizedRows& b) {
        OwnedTensor y({size.m, size.n}, DType::kBF16);
        fill_normal(y, 8);
        CpuBackend(threads, isa).quantized_matmul(y, a, b, Write::kAdd);
        return y;
      };
      const OwnedTensor expected = run(Isa::kGeneric, 3, of_bits(x, 8), of_bits(w, 8));
      const OwnedTensor actual = run(GetParam(), 1, of_bits(x, x_bits), of_bits(w, w_bits));
      EXPECT_TRUE(actual.same_bytes(expected)) << 'w' << w_bits << 'a' << x_bits;
    }
  }
}

TEST_P(QuantizedMatmul, ABrokenRowOfXMakesItsRowOfYNaN) {
  OwnedQuantizedRows x = random_codes(3, 64, -8, 7, 3, false);
  const OwnedQuantizedRows w = random_codes(5, 64, -8, 7, 4, false);
  x.steps.view().as<float>()[1] = std::nanf("");
  OwnedTensor y({3, 5}, DType::kF32);
  backend_->quantized_matmul(y, x.view(), w.view(), Write::kSet);
  for (std::int64_t j = 0; j < 5; ++j) {
    EXPECT_TRUE(std::isnan(y.view().row<float>(1)[j]));
    EXPECT_FALSE(std::isnan(y.view().row<float>(2)[j]));
  }
}

double level(const OwnedQuantizedRows& rows, std::int64_t r, std::int64_t k) {
  return (rows.codes.view().row<std::int8_t>(r)[k] + 0.5) * rows.steps.view().as<float>()[r];
}

/// Each term is rounded to bf16 once more where d_y is bf16, and f32 sums of `terms` terms err by
/// terms * 2^-24; a bf16 output is rounded once.
double gradient_bound(double magnitude, double value, DType in, DType out, std::int64_t terms) {
  const double term = in == DType::kBF16 ? 0x1p-8 : 0.0;
  const double store = out == DType::kBF16 ? 0x1p-7 : 0.0;
  return (term + 0x1p-23 * static_cast<double>(terms + 4)) * magnitude + store * std::abs(value);
}

TEST_P(QuantizedMatmul, GradientsAreTheReferences) {
  // The last two have rows enough for tiles of either gradient.
  for (const ProductCase& size :
       {ProductCase{1, 3, 5}, {5, 33, 16}, {40, 70, 130}, {260, 35, 67}, {33, 260, 67}}) {
    const OwnedQuantizedRows x = random_codes(size.m, size.k, -8, 7, 3, false);
    const OwnedQuantizedRows w = random_codes(size.n, size.k, -8, 7, 4, false);
    for (const DType in : {DType::kF32, DType::kBF16}) {
      // d_y is a column slice.
      const OwnedTensor storage({size.m, size.n + 5}, in);
      fill_normal(storage, 9);
      const Tensor d_y = storage.view().columns(2, 2 + size.n);
      for (const DType out : {DType::kF32, DType::kBF16}) {
        for (const Write write : {Write::kSet, Write::kAdd}) {
          OwnedTensor actual({size.m, size.k}, out);
          OwnedTensor expected({size.m, size.k}, out);
          fill_normal(actual, 5);
          fill_normal(expected, 5);
          backend_->quantized_matmul_grad_input(actual, d_y, w.view(), write);
          reference_->quantized_matmul_grad_input(expected, d_y, w.view(), write);
          for (std::int64_t i = 0; i < size.m; ++i) {
            for (std::int64_t k = 0; k < size.k; ++k) {
              double magnitude = 1.0;
              for (std::int64_t j = 0; j < size.n; ++j) {
                magnitude += std::abs(element(d_y, i, j) * level(w, j, k));
              }
              const double wanted = element(expected, i, k);
              ASSERT_NEAR(element(actual, i, k), wanted,
                          gradient_bound(magnitude, wanted, in, out, size.n))
                  << name(in) << " to " << name(out) << " at " << i << ", " << k;
            }
          }
        }
      }
      for (const Write write : {Write::kSet, Write::kAdd}) {
        OwnedTensor actual({size.n, size.k}, DType::kF32);
        OwnedTensor expected({size.n, size.k}, DType::kF32);
        fill_normal(actual, 6);
        fill_normal(expected, 6);
        backend_->quantized_matmul_grad_weight(actual, d_y, x.view(), write);
        reference_->quantized_matmul_grad_weight(expected, d_y, x.view(), write);
        for (std::int64_t j = 0; j < size.n; ++j) {
          for (std::int64_t k = 0; k < size.k; ++k) {
            double magnitude = 1.0;
            for (std::int64_t i = 0; i < size.m; ++i) {
              magnitude += std::abs(element(d_y, i, j) * level(x, i, k));
            }
            const double wanted = element(expected, j, k);
            ASSERT_NEAR(element(actual, j, k), wanted,
                        gradient_bound(magnitude, wanted, in, DType::kF32, size.m))
                << name(in) << " at " << j << ", " << k;
          }
        }
      }
    }
  }
}

// Whether the backend knows how few bits codes have, or not.
TEST_P(QuantizedMatmul, GradientsThroughCodesOfFewBitsHaveTheBitsOfThoseOfEight) {
  for (const ProductCase& size : {ProductCase{260, 35, 67}, {33, 260, 67}, {161, 192, 288}}) {
    OwnedTensor d_y({size.m, size.n}, DType::kBF16);
    fill_normal(d_y, 9);
    for (int bits = 1; bits < 8; ++bits) {
      const OwnedQuantizedRows x = random_codes(size.m, size.k, bits, 3);
      const OwnedQuantizedRows w = random_codes(size.n, size.k, bits, 4);
      const auto gradients = [&](int known_bits) {
        QuantizedRows of_x = x.view(), of_w = w.view();
        of_x.bits = of_w.bits = known_bits;
        OwnedTensor d_z({size.m, size.k}, DType::kBF16), d_w({size.n, size.k}, DType::kF32);
        backend_->quantized_matmul_grad_input(d_z, d_y, of_w, Write::kSet);
        backend_->quantized_matmul_grad_weight(d_w, d_y, of_x, Write::kSet);
        return std::pair{std::move(d_z), std::move(d_w)};
      };
      const auto known = gradients(bits), unknown = gradients(8);
      EXPECT_TRUE(known.first.same_bytes(unknown.first)) << bits << " bits, " << size.m << " rows";
      EXPECT_TRUE(known.second.same_bytes(unknown.second))
          << bits << " bits, " << size.m << " rows";
    }
  }
}

TEST_P(QuantizedMatmul, GradientsOfMoreRowsThanAChunkOfScratchHoldAreTheSame) {
  // 17000 rows of 1000 bf16 values exceed 32 MiB.
  constexpr std::int64_t kMany = 17000;
  constexpr std::int64_t kWide = 1000;
  OwnedTensor d_y({kMany, kWide}, DType::kBF16);
  for (std::int64_t i = 0; i < kMany * kWide; ++i) {
    d_y.view().as<BFloat16>()[i] = to_bfloat16(static_cast<float>(i % 17 - 8));
  }
  const OwnedQuantizedRows w = random_codes(kWide, 1, -8, 7, 4, true);
  OwnedTensor d_z({kMany, 1}, DType::kF32);
  backend_->quantized_matmul_grad_input(d_z, d_y, w.view(), Write::kSet);
  const OwnedQuantizedRows x = random_codes(kMany, 1, -8, 7, 5, true);
  OwnedTensor d_w({kWide, 1}, DType::kF32);
  backend_->quantized_matmul_grad_weight(d_w, d_y, x.view(), Write::kSet);
  // Small integers, so every sum is exact in f32 in any order.
  for (const std::int64_t i : {std::int64_t{0}, kMany / 2, kMany - 1}) {
    double expected = 0;
    for (std::int64_t j = 0; j < kWide; ++j) expected += element(d_y, i, j) * level(w, j, 0);
    EXPECT_EQ(element(d_z, i, 0), expected) << "row " << i;
  }
  for (const std::int64_t j : {std::int64_t{0}, kWide - 1}) {
    double expected = 0;
    for (std::int64_t i = 0; i < kMany; ++i) expected += element(d_y, i, j) * level(x, i, 0);
    EXPECT_EQ(element(d_w, j, 0), expected) << "row " << j;
  }
}

TEST_P(QuantizedMatmulOnCpu, ScratchMemoryIsReusedOnceItIsLargeEnough) {
  const OwnedQuantizedRows x = random_codes(40, 130, -8, 7, 3, false);
  const OwnedQuantizedRows w = random_codes(70, 130, -8, 7, 4, false);
  OwnedTensor y({40, 70}, DType::kF32);
  OwnedTensor d_z({40, 130}, DType::kF32);
  CpuBackend cpu(2, GetParam());
  const auto run = [&] {
    cpu.quantized_matmul(y, x.view(), w.view(), Write::kSet);
    cpu.quantized_matmul_grad_input(d_z, y, w.view(), Write::kSet);
    return cpu.workspace_bytes();
  };
  const std::size_t first = run();
  EXPECT_GT(first, 70u * 130u * sizeof(float));
  EXPECT_EQ(run(), first);
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, QuantizedMatmul, testing::ValuesIn(backends_under_test()),
                         [](const auto& isa) { return isa.param.name; });
INSTANTIATE_TEST_SUITE_P(EveryIsa, QuantizedMatmulOnCpu, testing::ValuesIn(available_isas()),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
}  // namespace quest
