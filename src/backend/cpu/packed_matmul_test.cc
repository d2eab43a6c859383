// Products with packed weights: the numbers of the products on plain codes, in every instruction
// set.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "backend/backends_under_test.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/packed_kernels.h"
#include "backend/kernel_cases.h"
#include "quant/packing.h"

namespace quest {
namespace {

// The rows as they lie in a file. The memory ends with the last row, so that the sanitizer sees a
// kernel that reads on.
struct OwnedPackedRows {
  std::vector<std::uint8_t> bytes;
  std::vector<float> steps;
  std::vector<std::int32_t> code_sums;
  PackedRows rows;

  OwnedPackedRows(const OwnedQuantizedRows& plain, int bits)
      : bytes(static_cast<std::size_t>(plain.codes.view().rows() *
                                       packed_row_bytes(plain.codes.view().cols(), bits))),
        steps(plain.steps.view().as<float>(),
              plain.steps.view().as<float>() + plain.codes.view().rows()),
        code_sums(plain.code_sums.view().as<std::int32_t>(),
                  plain.code_sums.view().as<std::int32_t>() + plain.codes.view().rows()) {
    const Tensor codes = plain.codes;
    rows.bits = bits;
    rows.columns = codes.cols();
    rows.codes = view_of(bytes.data(), {codes.rows(), packed_row_bytes(codes.cols(), bits)});
    rows.steps = view_of(steps.data(), {codes.rows()});
    rows.code_sums = view_of(code_sums.data(), {codes.rows()});
    for (std::int64_t r = 0; r < codes.rows(); ++r) {
      pack_codes(rows.codes.row<std::uint8_t>(r), codes.row<std::int8_t>(r), codes.cols(), bits);
    }
  }
};

constexpr ProductCase kCases[] = {{1, 1, 1},    {1, 5, 127},   {1, 70, 1030}, {2, 65, 129},
                                  {3, 9, 64},   {4, 129, 512}, {7, 33, 640},  {16, 66, 200},
                                  {17, 40, 96}, {25, 70, 130}, {40, 33, 513}};

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

// --- The tables themselves, also those that this CPU would not choose ---

std::vector<std::pair<std::string, const PackedKernels*>> all_tables() {
  std::vector<std::pair<std::string, const PackedKernels*>> tables;
  for (const Isa isa : available_isas()) {
    tables.emplace_back(isa_name(isa), &packed_kernels(isa));
#if defined(__x86_64__)
    if (isa == Isa::kAvx512) {
      tables.emplace_back("avx512_plain", &kPackedKernelsAvx512);
      if (&packed_kernels(isa) == &kPackedKernelsAvx512BitsBf16) {
        tables.emplace_back("avx512_bits", &kPackedKernelsAvx512Bits);
      }
    }
#endif
  }
  return tables;
}

TEST(PackedKernelsOnCpu, EveryTableGivesTheExactIntegers) {
  for (const auto& [table_name, kernels] : all_tables()) {
    for (const std::int64_t k : {1, 7, 8, 63, 64, 65, 129, 511, 513, 700}) {
      for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
        const OwnedQuantizedRows w = random_codes(6, k, bits, 11);
        const OwnedPackedRows packed(w, bits);
        const OwnedQuantizedRows x = random_codes(7, k, 8, 12);
        std::vector<std::int8_t> codes(static_cast<std::size_t>(k));
        kernels->unpack_row(codes.data(), packed.rows.codes.row<std::uint8_t>(5), k, bits);
        ASSERT_TRUE(std::equal(codes.begin(), codes.end(), w.codes.view().row<std::int8_t>(5)))
            << table_name << ' ' << bits << " bits, K " << k;

        const std::int64_t row_bytes = (kernels->x_row_bytes(k, bits) + 63) / 64 * 64;
        OwnedTensor x_rows({7, row_bytes}, DType::kU8);
        OwnedTensor scratch({dot_scratch_bytes(k)}, DType::kU8);
        OwnedTensor sums({7, 8}, DType::kI32);
        for (std::int64_t i = 0; i < 7; ++i) {
          kernels->pack_x(x_rows.view().row<std::uint8_t>(i), x.codes.view().row<std::int8_t>(i), k,
                          bits);
        }
        for (const std::int64_t rows : {1, 2, 3, 7}) {
          PackedDot dot{};
          dot.x = x_rows.view().as<std::uint8_t>();
          dot.x_row_bytes = row_bytes;
          dot.rows = rows;
          dot.w = packed.rows.codes.as<std::uint8_t>();
          dot.w_row_bytes = packed.rows.codes.row_stride;
          dot.columns = 6;
          dot.k = k;
          dot.bits = bits;
          dot.sums = sums.view().as<std::int32_t>();
          dot.stride = 8;
          dot.scratch = scratch.view().as<std::uint8_t>();
          kernels->dot(dot);
          for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j < 6; ++j) {
              std::int32_t expected = 0;
              for (std::int64_t c = 0; c < k; ++c) {
                expected += x.codes.view().row<std::int8_t>(i)[c] *
                            (w.codes.view().row<std::int8_t>(j)[c] + (1 << (bits - 1)));
              }
              ASSERT_EQ(dot.sums[i * 8 + j], expected)
                  << table_name << ' ' << bits << " bits, K " << k << ", " << rows << " rows, at "
                  << i << ", " << j;
            }
          }
        }
      }
    }
  }
}

TEST(PackedKernelsOnCpu, EveryTableCountsDifferingSigns) {
  for (const auto& [table_name, kernels] : all_tables()) {
    for (const std::int64_t k : {1, 8, 31, 33, 64, 200, 511, 513, 1025}) {
      const OwnedQuantizedRows w = random_codes(6, k, 1, 13);
      const OwnedPackedRows packed(w, 1);
      const OwnedQuantizedRows x = random_codes(3, k, 1, 14);
      OwnedTensor x_rows({3, sign_row_bytes(k)}, DType::kU8);
      OwnedTensor sums({3, 8}, DType::kI32);
      for (std::int64_t i = 0; i < 3; ++i) {
        kernels->pack_signs(x_rows.view().row<std::uint8_t>(i), x.codes.view().row<std::int8_t>(i),
                            k);
      }
      PackedDot dot{};
      dot.x = x_rows.view().as<std::uint8_t>();
      dot.x_row_bytes = sign_row_bytes(k);
      dot.rows = 3;
      dot.w = packed.rows.codes.as<std::uint8_t>();
      dot.w_row_bytes = packed.rows.codes.row_stride;
      dot.columns = 6;
      dot.k = k;
      dot.bits = 1;
      dot.sums = sums.view().as<std::int32_t>();
      dot.stride = 8;
      kernels->xor_dot(dot);
      for (std::int64_t i = 0; i < 3; ++i) {
        for (std::int64_t j = 0; j < 6; ++j) {
          std::int32_t expected = 0;
          for (std::int64_t c = 0; c < k; ++c) {
            expected +=
                x.codes.view().row<std::int8_t>(i)[c] != w.codes.view().row<std::int8_t>(j)[c];
          }
          ASSERT_EQ(dot.sums[i * 8 + j], expected) << table_name << ", K " << k;
        }
      }
    }
  }
}

// The sum over k of (2 qx + 1)(2 qw + 1).
std::int32_t odd_product(const OwnedQuantizedRows& x, std::int64_t i, const OwnedQuantizedRows& w,
                         std::int64_t j) {
  std::int32_t sum = 0;
  for (std::int64_t k = 0; k < x.codes.view().cols(); ++k) {
    sum += (2 * x.codes.view().row<std::int8_t>(i)[k] + 1) *
           (2 * w.codes.view().row<std::int8_t>(j)[k] + 1);
  }
  return sum;
}

// Planes of the codes of row i, the signs first, `stride` rows of bits apart.
void pack_planes(const PackedKernels& kernels, const OwnedTensor& bits, std::int64_t first,
                 std::int64_t stride, const OwnedQuantizedRows& rows, std::int64_t i, int planes) {
  const std::int8_t* const codes = rows.codes.view().row<std::int8_t>(i);
  const std::int64_t k = rows.codes.view().cols();
  kernels.pack_signs(bits.view().row<std::uint8_t>(first), codes, k);
  for (int place = planes - 2; place >= 0; --place) {
    first += stride;
    kernels.pack_place(bits.view().row<std::uint8_t>(first), codes, k, place);
  }
}

// One tile of as many rows of x and of w, of as many planes, in a y with margins of 7.
void expect_exact_tile(const PackedKernels& kernels, int x_planes, int w_planes, ProductCase size,
                       const std::string& what) {
  const OwnedQuantizedRows x = random_codes(size.m, size.k, x_planes, 15);
  const OwnedQuantizedRows w = random_codes(size.n, size.k, w_planes, 16);
  const std::int64_t row_bytes = sign_row_bytes(size.k), groups = (size.k + 31) / 32;
  const OwnedTensor x_rows({size.m * x_planes, row_bytes}, DType::kU8);
  for (std::int64_t i = 0; i < size.m; ++i) {
    pack_planes(kernels, x_rows, i * x_planes, 1, x, i, x_planes);
  }
  const std::int64_t width = kernels.xor_columns / w_planes;
  const OwnedTensor w_rows({kernels.xor_columns, row_bytes}, DType::kU8);
  for (std::int64_t j = 0; j < size.n; ++j) {
    pack_planes(kernels, w_rows, j, width, w, j, w_planes);
  }
  const OwnedTensor panel({groups, kernels.xor_columns, 4}, DType::kU8);
  kernels.pack_sign_panel(panel.view().as<std::uint8_t>(),
                          {w_rows.view().as<std::uint8_t>(), row_bytes,
                           width * (w_planes - 1) + size.n, (size.k + 7) / 8});
  // A quarter of the steps' products is what remains.
  const std::vector<float> ones(static_cast<std::size_t>(size.m), 1.0f);
  const std::vector<float> fours(static_cast<std::size_t>(size.n), 4.0f);
  std::vector<float> y(static_cast<std::size_t>(size.m * (size.n + 7)), 7.0f);
  XorTile tile{};
  tile.x = x_rows.view().as<std::uint8_t>();
  tile.x_row_bytes = row_bytes;
  tile.panel = panel.view().as<std::uint8_t>();
  tile.groups = groups;
  tile.planes = x_planes;
  tile.w_planes = w_planes;
  tile.rows = static_cast<std::int32_t>(size.m * x_planes);
  tile.columns = static_cast<std::int32_t>(size.n);
  tile.k = static_cast<std::int32_t>(size.k);
  tile.x_steps = ones.data();
  tile.w_steps = fours.data();
  tile.y = y.data();
  tile.y_stride = size.n + 7;
  kernels.xor_tile(tile);
  for (std::int64_t i = 0; i < size.m; ++i) {
    for (std::int64_t j = 0; j < size.n + 7; ++j) {
      const float wanted = j < size.n ? static_cast<float>(odd_product(x, i, w, j)) : 7.0f;
      ASSERT_EQ(y[static_cast<std::size_t>(i * (size.n + 7) + j)], wanted)
          << what << ", M " << size.m << " N " << size.n << " K " << size.k;
    }
  }
}

TEST(PackedKernelsOnCpu, EveryTableMultipliesTilesOfPlanes) {
  for (const auto& [table_name, kernels] : all_tables()) {
    if (kernels->xor_tile == nullptr) continue;
    for (const auto& [x_planes, w_planes] :
         {std::pair{1, 1}, {2, 1}, {3, 1}, {4, 1}, {1, 2}, {2, 2}}) {
      for (std::int64_t m = 1; m <= kernels->xor_rows / x_planes; ++m) {
        for (const std::int64_t n : {1, 15, 16, 17, 32}) {
          if (n > kernels->xor_columns / w_planes) continue;
          for (const std::int64_t k : {1, 33, 512, 1025}) {
            expect_exact_tile(*kernels, x_planes, w_planes, {m, n, k},
                              fmt::format("{}, {} by {} planes", table_name, x_planes, w_planes));
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quest
