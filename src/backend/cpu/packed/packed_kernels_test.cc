// The tables of kernels for packed weights: exact integers from every one.
#include "backend/cpu/packed/packed_kernels.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu/isa.h"
#include "backend/cpu/packed/owned_packed_rows.h"
#include "backend/kernel_cases.h"

namespace quest {
namespace {

// Those that this CPU runs, also ones that it would not choose.
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
  constexpr std::int64_t kMostRows = 7, kColumns = 6, kStride = 8;
  for (const auto& [table_name, kernels] : all_tables()) {
    for (const std::int64_t k : {1, 8, 31, 33, 64, 200, 511, 513, 1025}) {
      const OwnedQuantizedRows w = random_codes(kColumns, k, 1, 13);
      const OwnedPackedRows packed(w, 1);
      const OwnedQuantizedRows x = random_codes(kMostRows, k, 1, 14);
      OwnedTensor x_rows({kMostRows, sign_row_bytes(k)}, DType::kU8);
      for (std::int64_t i = 0; i < kMostRows; ++i) {
        kernels->pack_signs(x_rows.view().row<std::uint8_t>(i), x.codes.view().row<std::int8_t>(i),
                            k);
      }
      for (const std::int64_t rows : {1, 3, 4, 7}) {
        OwnedTensor sums({rows, kStride}, DType::kI32);
        PackedDot dot{};
        dot.x = x_rows.view().as<std::uint8_t>();
        dot.x_row_bytes = sign_row_bytes(k);
        dot.rows = rows;
        dot.w = packed.rows.codes.as<std::uint8_t>();
        dot.w_row_bytes = packed.rows.codes.row_stride;
        dot.columns = kColumns;
        dot.k = k;
        dot.bits = 1;
        dot.sums = sums.view().as<std::int32_t>();
        dot.stride = kStride;
        kernels->xor_dot(dot);
        for (std::int64_t i = 0; i < rows; ++i) {
          for (std::int64_t j = 0; j < kColumns; ++j) {
            std::int32_t expected = 0;
            for (std::int64_t c = 0; c < k; ++c) {
              expected +=
                  x.codes.view().row<std::int8_t>(i)[c] != w.codes.view().row<std::int8_t>(j)[c];
            }
            ASSERT_EQ(dot.sums[i * kStride + j], expected)
                << table_name << ", K " << k << ", " << rows << " rows, at " << i << ", " << j;
          }
        }
      }
    }
  }
}

// Other loops run where rows are read in order: K up to which x is held in registers or on the
// stack, and beyond.
TEST(PackedKernelsOnCpu, RowsInOrderGiveTheSameIntegers) {
  constexpr std::int64_t kMostRows = 3;
  for (const auto& [table_name, kernels] : all_tables()) {
    for (const int bits : {1, 2, 4, 5, 8}) {
      for (const std::int64_t k :
           {256, 512, 513, 768, 1024, 1100, 1280, 2752, 2816, 8192, 8256, 9000}) {
        const std::int64_t columns = 3 + 32768 * 8 / bits / k;
        const OwnedPackedRows w(random_codes(columns, k, bits, 17), bits);
        const std::int64_t row_bytes =
            std::max((kernels->x_row_bytes(k, bits) + 63) / 64 * 64, sign_row_bytes(k));
        const OwnedTensor x_rows({kMostRows, row_bytes}, DType::kU8);
        const OwnedTensor scratch({dot_scratch_bytes(k)}, DType::kU8);
        const OwnedQuantizedRows x = random_codes(kMostRows, k, 8, 18);
        const std::int64_t stride = columns + 4;
        std::vector<std::int32_t> sums(static_cast<std::size_t>(kMostRows * stride)), ahead = sums;
        PackedDot dot{};
        dot.x = x_rows.view().as<std::uint8_t>();
        dot.x_row_bytes = row_bytes;
        dot.w = w.rows.codes.as<std::uint8_t>();
        dot.w_row_bytes = w.rows.codes.row_stride;
        dot.columns = columns;
        dot.k = k;
        dot.bits = bits;
        dot.stride = stride;
        dot.scratch = scratch.view().as<std::uint8_t>();
        const auto expect_same = [&](void (*kernel)(const PackedDot&), const char* what) {
          for (dot.rows = 1; dot.rows <= kMostRows; ++dot.rows) {
            dot.in_order = false;
            dot.sums = sums.data();
            kernel(dot);
            dot.in_order = true;
            dot.sums = ahead.data();
            kernel(dot);
            for (std::int64_t i = 0; i < dot.rows * stride; ++i) {
              if (i % stride >= columns) continue;
              const auto at = static_cast<std::size_t>(i);
              ASSERT_EQ(ahead[at], sums[at])
                  << table_name << ' ' << what << ", " << bits << " bits, K " << k << ", row "
                  << i / stride << " of " << dot.rows << ", column " << i % stride;
            }
          }
        };
        for (std::int64_t i = 0; i < kMostRows; ++i) {
          kernels->pack_x(x_rows.view().row<std::uint8_t>(i), x.codes.view().row<std::int8_t>(i), k,
                          bits);
        }
        expect_same(kernels->dot, "dot");
        if (bits != 1) continue;
        for (std::int64_t i = 0; i < kMostRows; ++i) {
          kernels->pack_signs(x_rows.view().row<std::uint8_t>(i),
                              x.codes.view().row<std::int8_t>(i), k);
        }
        expect_same(kernels->xor_dot, "xor_dot");
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

TEST(PackedKernelsOnCpu, BitPairsThatDifferMakeTheProduct) {
  constexpr std::int64_t kColumns = 7;
  for (const auto& [table_name, kernels] : all_tables()) {
    if (kernels->xor_pairs_dot == nullptr) continue;
    for (const std::int64_t k : {1, 5, 255, 256, 257, 1024, 2816, 3100}) {
      const OwnedQuantizedRows x = random_codes(1, k, 2, 21), w = random_codes(kColumns, k, 2, 22);
      const OwnedPackedRows packed(w, 2);
      const OwnedTensor x_row({bit_pairs_row_bytes(k)}, DType::kU8);
      kernels->pack_bit_pairs(x_row.view().as<std::uint8_t>(), x.codes.view().as<std::int8_t>(), k);
      std::int32_t sums[kColumns + 1];
      PackedDot dot{};
      dot.x = x_row.view().as<std::uint8_t>();
      dot.x_row_bytes = bit_pairs_row_bytes(k);
      dot.rows = 1;
      dot.w = packed.rows.codes.as<std::uint8_t>();
      dot.w_row_bytes = packed.rows.codes.row_stride;
      dot.columns = kColumns;
      dot.k = k;
      dot.bits = 2;
      dot.sums = sums;
      dot.stride = kColumns + 1;
      kernels->xor_pairs_dot(dot);
      for (std::int64_t j = 0; j < kColumns; ++j) {
        ASSERT_EQ(9 * k - 2 * sums[j], odd_product(x, 0, w, j))
            << table_name << ", K " << k << ", column " << j;
      }
    }
  }
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
