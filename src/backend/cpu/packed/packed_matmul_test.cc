// Products with packed weights: the numbers of the products on plain codes, in every instruction
// set.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "backend/backends_under_test.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/packed/owned_packed_rows.h"
#include "backend/kernel_cases.h"

namespace quest {
namespace {

constexpr ProductCase kCases[] = {{1, 1, 1},     {1, 5, 127},  {1, 70, 1030}, {2, 65, 129},
                                  {3, 9, 64},    {4, 9, 1030}, {4, 129, 512}, {7, 33, 640},
                                  {16, 66, 200}, {17, 40, 96}, {25, 70, 130}, {40, 33, 513}};

class PackedMatmul : public testing::TestWithParam<BackendUnderTest> {
 protected:
  std::unique_ptr<Backend> backend_ = GetParam().make();
  std::unique_ptr<Backend> reference_ = make_reference_backend();
};

TEST_P(PackedMatmul, GivesTheBitsOfTheProductOnPlainCodes) {
  for (const ProductCase& size : kCases) {
    for (int w_bits = kMinBits; w_bits <= kMaxBits; ++w_bits) {
      const OwnedQuantizedRows w = random_codes(size.n, size.k, w_bits, 2);
      const OwnedPackedRows packed(w, w_bits);
      for (const int x_bits : {1, 2, 4, w_bits, 8}) {
        const OwnedQuantizedRows x = random_codes(size.m, size.k, x_bits, 1);
        OwnedTensor actual({size.m, size.n}, DType::kF32);
        OwnedTensor expected({size.m, size.n}, DType::kF32);
        backend_->packed_matmul(actual, x.view(), x_bits, packed.rows, Write::kSet);
        backend_->quantized_matmul(expected, x.view(), w.view(), Write::kSet);
        for (std::int64_t i = 0; i < size.m * size.n; ++i) {
          ASSERT_EQ(actual.view().as<float>()[i], expected.view().as<float>()[i])
              << "M " << size.m << " N " << size.n << " K " << size.k << ", w" << w_bits << "a"
              << x_bits << " element " << i;
        }
      }
    }
  }
}

// The linear layers of a block of the 800M preset, each of whose shapes is one here: blocking by
// cache sizes and threads happens at such sizes only.
TEST(PackedMatmulOfLargeLayers, GivesTheBitsOfTheProductOnPlainCodes) {
  constexpr std::int64_t kWidth = 2048;
  constexpr std::int64_t kHidden = 5632;
  for (const int bits : {1, 4}) {
    for (const auto& [n, k] : {std::pair{kWidth, kWidth}, {kHidden, kWidth}, {kWidth, kHidden}}) {
      const OwnedQuantizedRows w = random_codes(n, k, bits, 2);
      const OwnedPackedRows packed(w, bits);
      for (const std::int64_t m : {1, 16, 17}) {
        const OwnedQuantizedRows x = random_codes(m, k, bits, 1);
        OwnedTensor actual({m, n}, DType::kF32);
        OwnedTensor expected({m, n}, DType::kF32);
        for (const Isa isa : available_isas()) {
          CpuBackend cpu(2, isa);
          cpu.packed_matmul(actual, x.view(), bits, packed.rows, Write::kSet);
          cpu.quantized_matmul(expected, x.view(), w.view(), Write::kSet);
          ASSERT_TRUE(actual.same_bytes(expected)) << isa_name(isa) << ", M " << m << " N " << n
                                                   << " K " << k << ", " << bits << " bits";
        }
      }
    }
  }
}

TEST_P(PackedMatmul, TypesSlicesAndAddingAreThoseOfThePlainProduct) {
  for (const ProductCase& size : kCases) {
    for (const int bits : {1, 4}) {
      const OwnedQuantizedRows x = random_codes(size.m, size.k, bits, 3);
      const OwnedQuantizedRows w = random_codes(size.n, size.k, bits, 4);
      const OwnedPackedRows packed(w, bits);
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        for (const Write write : {Write::kSet, Write::kAdd}) {
          OwnedTensor actual({size.m, size.n + 7}, dtype);
          OwnedTensor expected({size.m, size.n + 7}, dtype);
          fill_normal(actual, 5);
          fill_normal(expected, 5);
          const std::int64_t end = 3 + size.n;
          backend_->packed_matmul(actual.view().columns(3, end), x.view(), bits, packed.rows,
                                  write);
          backend_->quantized_matmul(expected.view().columns(3, end), x.view(), w.view(), write);
          ASSERT_TRUE(actual.same_bytes(expected))
              << "M " << size.m << " N " << size.n << " K " << size.k << ' ' << name(dtype);
        }
      }
    }
  }
}

// What rows of K columns are made of, and where they are when they are.
struct Source {
  Source(std::int64_t rows, std::int64_t columns, DType type)
      : x({rows, columns}, type),
        residual({rows, columns}, DType::kF32),
        weight({columns}, DType::kF32),
        rstd({rows}, DType::kF32),
        gate_up({rows, 2 * columns}, type) {
    fill_normal(x, 1);
    fill_normal(residual, 2);
    fill_normal(weight, 3);
    fill_normal(gate_up, 4);
  }
  RowSource plain() const { return {x}; }
  RowSource norm() const { return {x, RowSource::Norm{rstd, residual, weight, 1e-5f}}; }
  RowSource swiglu() const {
    const std::int64_t columns = x.view().cols();
    return {x, RowSource::Swiglu{gate_up.view().columns(0, columns),
                                 gate_up.view().columns(columns, 2 * columns)}};
  }
  OwnedTensor x, residual, weight, rstd, gate_up;
};

TEST_P(PackedMatmul, OfRowsThatAreQuantizedOnTheWayItGivesTheBitsOfItsParts) {
  for (const ProductCase& size : {ProductCase{1, 5, 128},
                                  {1, 70, 256},
                                  {1, 33, 640},
                                  {1, 200, 1024},
                                  {1, 1100, 640},
                                  {1, 8500, 128},  // several tiles a block, on large devices too
                                  {1, 20, 4224},
                                  {1, 20, 8320},
                                  {1, 9, 200},
                                  {2, 33, 256}}) {
    for (const DType type : {DType::kBF16, DType::kF32}) {
      const Source source(size.m, size.k, type);
      for (const int bits : {1, 2, 3, 4, 8}) {
        const OwnedQuantizedRows w = random_codes(size.n, size.k, bits, 2);
        const OwnedPackedRows packed(w, bits);
        const RowQuantizer quantizer = RowQuantizer::make({bits}, Transform::kHadamard, size.k);
        for (const RowSource& from : {source.plain(), source.norm(), source.swiglu()}) {
          const OwnedQuantizedRows rows(size.m, size.k), scratch(size.m, size.k);
          const Write write = bits == 4 ? Write::kAdd : Write::kSet;
          OwnedTensor actual({size.m, size.n + 7}, type), expected({size.m, size.n + 7}, type);
          fill_normal(actual, 5);
          fill_normal(expected, 5);
          const std::int64_t end = 3 + size.n;
          backend_->quantize_source(rows.view(false), from, quantizer);
          backend_->packed_matmul(expected.view().columns(3, end), rows.view(false), bits,
                                  packed.rows, write);
          backend_->quantize_packed_matmul(actual.view().columns(3, end), scratch.view(false), from,
                                           quantizer, bits, packed.rows, write);
          ASSERT_TRUE(actual.same_bytes(expected))
              << "M " << size.m << " N " << size.n << " K " << size.k << ' ' << name(type) << ' '
              << bits << " bits, source " << from.made_of.index();
        }
      }
    }
  }
}

TEST_P(PackedMatmul, TheLargestSumsDoNotOverflow) {
  constexpr std::int64_t kLongest = 32768;
  for (const int bits : {1, 2, 4, 5, 7, 8}) {
    for (const int w_code : {-(1 << (bits - 1)), (1 << (bits - 1)) - 1}) {
      for (const int x_code : {-128, 127}) {
        for (const std::int64_t m : {1, 3, 18}) {
          OwnedQuantizedRows x = random_codes(m, kLongest, 1, 1);
          OwnedQuantizedRows w = random_codes(3, kLongest, 1, 1);
          const auto fill = [](OwnedQuantizedRows& rows, int code) {
            const Tensor codes = rows.codes;
            std::fill_n(codes.as<std::int8_t>(), codes.numel(), static_cast<std::int8_t>(code));
            for (std::int64_t r = 0; r < codes.rows(); ++r) {
              rows.code_sums.view().as<std::int32_t>()[r] = code * static_cast<int>(kLongest);
              rows.steps.view().as<float>()[r] = 2.0f;
            }
          };
          fill(x, x_code);
          fill(w, w_code);
          OwnedTensor y({m, 3}, DType::kF32);
          backend_->packed_matmul(y, x.view(), 8, OwnedPackedRows(w, bits).rows, Write::kSet);
          const auto expected =
              static_cast<float>(std::int64_t{2 * x_code + 1} * (2 * w_code + 1) * kLongest);
          for (std::int64_t i = 0; i < 3 * m; ++i) {
            ASSERT_EQ(y.view().as<float>()[i], expected) << bits << " bits, " << m << " rows";
          }
        }
      }
    }
  }
}

TEST_P(PackedMatmul, WeightOnlyProductsAreTheReferences) {
  for (const ProductCase& size : kCases) {
    for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
      for (const std::int64_t block : {std::int64_t{1}, hadamard_block(size.k)}) {
        OwnedPackedRows w(random_codes(size.n, size.k, bits, 6), bits);
        OwnedTensor x({size.m, size.k}, DType::kF32);
        OwnedTensor actual({size.m, size.n}, DType::kF32);
        OwnedTensor expected({size.m, size.n}, DType::kF32);
        fill_normal(x, 7);
        const double level = (1 << (bits - 1)) * 1.1;
        // Roundings of sums of K terms of the size of a level.
        const double sums = 0x1p-22 * level * (static_cast<double>(size.k) + 16);
        // Half a step of each input, whose largest is below 6 before and after the rotation.
        const double inputs = 0x1p-15 * 6 * level * static_cast<double>(size.k);
        for (const bool approximate : {false, true}) {
          w.rows.approximate = approximate;
          for (const Write write : {Write::kSet, Write::kAdd}) {
            backend_->packed_dense_matmul(actual, x, w.rows, block, write);
            reference_->packed_dense_matmul(expected, x, w.rows, block, write);
            const double bound = sums + (approximate ? inputs : 0);
            for (std::int64_t i = 0; i < size.m * size.n; ++i) {
              ASSERT_NEAR(actual.view().as<float>()[i], expected.view().as<float>()[i], bound)
                  << "M " << size.m << " N " << size.n << " K " << size.k << " bits " << bits
                  << " block " << block << " approximate " << approximate;
            }
          }
        }
      }
    }
  }
}

TEST_P(PackedMatmul, ARowBesideApproximateWeightsDoesNotDependOnTheOthers) {
  constexpr std::int64_t kRows = 40, kColumns = 33, kSummed = 640;
  OwnedPackedRows w(random_codes(kColumns, kSummed, 8, 6), 8);
  w.rows.approximate = true;
  OwnedTensor x({kRows, kSummed}, DType::kF32), all({kRows, kColumns}, DType::kF32);
  fill_normal(x, 7);
  std::fill_n(x.view().row<float>(2), kSummed, 0.0f);
  x.view().row<float>(3)[5] = std::numeric_limits<float>::quiet_NaN();
  backend_->packed_dense_matmul(all, x, w.rows, 128, Write::kSet);
  for (std::int64_t i = 0; i < kRows; ++i) {
    OwnedTensor alone({1, kColumns}, DType::kF32);
    backend_->packed_dense_matmul(alone, x.view().rows_slice(i, i + 1), w.rows, 128, Write::kSet);
    for (std::int64_t j = 0; j < kColumns; ++j) {
      const float wanted = alone.view().as<float>()[j], got = all.view().row<float>(i)[j];
      if (i == 3) {
        ASSERT_TRUE(std::isnan(got) && std::isnan(wanted)) << "column " << j;
        continue;
      }
      ASSERT_EQ(got, wanted) << "row " << i << " column " << j;
      ASSERT_TRUE(i != 2 || got == 0.0f) << "column " << j;
    }
  }
}

TEST_P(PackedMatmul, StoredWeightsOfEitherTypeMultiplyAsTheReferenceDoes) {
  for (const ProductCase& size : kCases) {
    for (const DType x_type : {DType::kF32, DType::kBF16}) {
      for (const DType w_type : {DType::kF32, DType::kBF16}) {
        OwnedTensor x({size.m, size.k}, x_type);
        OwnedTensor w({size.n, size.k}, w_type);
        OwnedTensor actual({size.m, size.n}, DType::kF32);
        OwnedTensor expected({size.m, size.n}, DType::kF32);
        fill_normal(x, 8);
        fill_normal(w, 9);
        backend_->stored_matmul(actual, x, w, Write::kSet);
        reference_->stored_matmul(expected, x, w, Write::kSet);
        // A bf16 product of many rows rounds w to the type of x.
        const double eps = x_type == w_type || x_type == DType::kF32 ? 0x1p-22 : 0x1p-8;
        const double bound = eps * (static_cast<double>(size.k) + 16);
        for (std::int64_t i = 0; i < size.m * size.n; ++i) {
          ASSERT_NEAR(actual.view().as<float>()[i], expected.view().as<float>()[i], bound)
              << "M " << size.m << " N " << size.n << " K " << size.k << ' ' << name(x_type) << ' '
              << name(w_type);
        }
      }
    }
  }
}

TEST_P(PackedMatmul, EmbeddingRowsAreTheReferences) {
  for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
    const OwnedPackedRows table(random_codes(9, 192, bits, 10), bits);
    std::vector<std::int32_t> tokens{8, 0, 3, 3, 7};
    OwnedTensor actual({5, 192}, DType::kF32);
    OwnedTensor expected({5, 192}, DType::kF32);
    const Tensor ids = view_of(tokens.data(), {5});
    backend_->packed_embedding(actual, ids, table.rows, 64);
    reference_->packed_embedding(expected, ids, table.rows, 64);
    for (std::int64_t i = 0; i < 5 * 192; ++i) {
      ASSERT_NEAR(actual.view().as<float>()[i], expected.view().as<float>()[i],
                  0x1p-20 * (1 << bits));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, PackedMatmul, testing::ValuesIn(backends_under_test()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace quest
