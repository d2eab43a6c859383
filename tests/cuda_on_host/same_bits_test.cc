// Where the CUDA backend promises the bits of the CPU's kernels: codes, steps, masks, and products
// of codes.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "backend/backends_under_test.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/packed/owned_packed_rows.h"
#include "backend/kernel_cases.h"

namespace quest {
namespace {

TEST(SameBits, CodesStepsAndMasksAreThoseOfTheCpu) {
  constexpr std::int64_t kRows = 5;
  CpuBackend cpu(1, Isa::kGeneric);
  for (const std::int64_t columns : kColumnCases) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const OwnedTensor x({kRows, columns}, dtype);
      fill_normal(x, static_cast<std::uint64_t>(columns), 3.0);
      for (const char* text : {"w1a1", "w3a3", "w4a4 clip", "w8a8 ste", "w4a4 none"}) {
        const LinearScheme scheme = LinearScheme::parse(text);
        const RowQuantizer quantizer = RowQuantizer::make(scheme.weight, scheme.transform, columns);
        const OwnedQuantizedRows wanted(kRows, columns);
        cpu.quantize_rows(wanted.view(), x, quantizer);
        on_every_backend([&](Backend& backend, const std::string& label) {
          const OwnedQuantizedRows got(kRows, columns);
          backend.quantize_rows(got.view(), x, quantizer);
          EXPECT_TRUE(got.same_bytes(wanted)) << text << " K " << columns << " on " << label;
        });
      }
    }
  }
}

// Of codes x [rows, K] and w [columns, K], and d_y [rows, columns].
struct IntegerGradients {
  OwnedTensor d_x, d_w;

  IntegerGradients(Backend& backend, Tensor d_y, const QuantizedRows& x, const QuantizedRows& w,
                   const RoundingKey& key)
      : d_x({d_y.rows(), w.codes.cols()}, DType::kF32),
        d_w({d_y.cols(), x.codes.cols()}, DType::kF32) {
    backend.integer_matmul_grad_input(d_x, d_y, w, key, Write::kSet);
    backend.integer_matmul_grad_weight(d_w, d_y, x, key, Write::kSet);
  }
};

TEST(SameBits, ProductsOfCodesAndIntegerGradientsAreThoseOfTheCpu) {
  CpuBackend cpu(1, Isa::kGeneric);
  const RoundingKey key = RoundingKeys(7, 1, 2).next();
  for (const ProductCase& size : {ProductCase{3, 5, 7},
                                  {17, 40, 96},
                                  {70, 33, 128},
                                  {1, 1, 147},
                                  {1, 130, 144},
                                  {141, 270, 304}}) {
    const OwnedQuantizedRows x_rows = random_codes(size.m, size.k, 7, 1);
    const OwnedQuantizedRows w_rows = random_codes(size.n, size.k, 7, 2);
    QuantizedRows x = x_rows.view(), w = w_rows.view();
    x.bits = w.bits = size.m == 17 ? 8 : 7;
    const OwnedTensor d_y({size.m, size.n}, DType::kBF16);
    fill_normal(d_y, 3);
    const auto product = [&](Backend& backend) {
      OwnedTensor y({size.m, size.n}, DType::kF32);
      backend.quantized_matmul(y, x, w, Write::kSet);
      return y;
    };
    const OwnedTensor wanted_y = product(cpu);
    const IntegerGradients wanted(cpu, d_y, x, w, key);
    on_every_backend([&](Backend& backend, const std::string& label) {
      const IntegerGradients got(backend, d_y, x, w, key);
      EXPECT_TRUE(product(backend).same_bytes(wanted_y)) << size.m << " on " << label;
      EXPECT_TRUE(got.d_x.same_bytes(wanted.d_x)) << size.m << " on " << label;
      EXPECT_TRUE(got.d_w.same_bytes(wanted.d_w)) << size.m << " on " << label;
    });
  }
}

// Rows and columns around what a thread and a block take, and codes that begin anywhere. Each sum
// has one term that is not zero.
TEST(SameBits, GradientsThroughCodesMultiplyTheirValuesInTheTypeOfTheGradient) {
  CpuBackend cpu(1, Isa::kGeneric);
  for (const std::int64_t rows : {1, 4, 7}) {
    for (const std::int64_t columns : {1, 8, 20, 2048, 2064}) {
      for (const std::int64_t first : {0, 4}) {
        const OwnedQuantizedRows codes = random_codes(rows, columns + first, 8, 1);
        QuantizedRows part = codes.view();
        part.codes = part.codes.columns(first, first + columns);
        for (const DType dtype : {DType::kF32, DType::kBF16}) {
          const OwnedTensor one({rows, rows}, DType::kF32), values({rows, columns}, dtype);
          for (std::int64_t r = 0; r < rows; ++r) one.view().row<float>(r)[r] = 1.0f;
          const OwnedTensor d_y({rows, rows}, dtype), wanted({rows, columns}, DType::kF32);
          cpu.cast(d_y, one);
          cpu.dequantize_rows(values, part, 1);
          cpu.cast(wanted, values);
          on_every_backend([&](Backend& backend, const std::string& label) {
            const OwnedTensor d_x({rows, columns}, DType::kF32), d_w({rows, columns}, DType::kF32);
            backend.quantized_matmul_grad_input(d_x, d_y, part, Write::kSet);
            backend.quantized_matmul_grad_weight(d_w, d_y, part, Write::kSet);
            EXPECT_TRUE(d_x.same_bytes(wanted)) << rows << " x " << columns << " on " << label;
            EXPECT_TRUE(d_w.same_bytes(wanted)) << rows << " x " << columns << " on " << label;
          });
        }
      }
    }
  }
}

// The same bits, or both NaN.
bool same_but_for_nans(Tensor a, Tensor b) {
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const float of_a = a.as<float>()[i], of_b = b.as<float>()[i];
    if (std::isnan(of_a) && std::isnan(of_b)) continue;
    if (std::memcmp(&of_a, &of_b, sizeof of_a) != 0) return false;
  }
  return true;
}

// Gradients as column slices whose rows begin at 16 bytes, at 4 or anywhere; columns and rows
// around what a thread, a group of threads and a block take; lines of different size, zeros, and
// NaN.
TEST(SameBits, IntegerGradientsOfAnySliceAreThoseOfTheCpu) {
  constexpr std::int64_t kK = 16;
  CpuBackend cpu(1, Isa::kGeneric);
  const RoundingKey key = RoundingKeys(7, 1, 2).next();
  for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                                      {3, 240},
                                      {5, 256},
                                      {63, 257},
                                      {66, 264},
                                      {130, 258},
                                      {2, 1030},
                                      {3, 2064}}) {
    const OwnedQuantizedRows x_rows = random_codes(rows, kK, 7, 1);
    const OwnedQuantizedRows w_rows = random_codes(columns, kK, 7, 2);
    for (const std::int64_t begin : {0, 1, 2, 8}) {
      for (const DType dtype : {DType::kBF16, DType::kF32}) {
        // What is not of the slice is so large that it would be seen.
        const std::int64_t stride = begin + (columns + 7) / 8 * 8;
        const OwnedTensor whole({rows, stride}, dtype), values({rows, columns}, DType::kF32);
        fill_normal(whole, 3, 1e6);
        fill_normal(values, 4);
        for (std::int64_t r = 0; r < rows; ++r) {
          for (std::int64_t c = 0; c < columns; ++c) {
            float& value = values.view().row<float>(r)[c];
            value *= r == 1 || c == 2 ? 0.0f : std::exp2(static_cast<float>(r % 7 - c % 5));
            if (rows > 2 && r == rows - 1 && c == columns - 2) value = std::nanf("");
          }
        }
        const Tensor d_y = whole.view().columns(begin, begin + columns);
        cpu.cast(d_y, values);
        for (const int bits : {7, 8}) {
          QuantizedRows x = x_rows.view(), w = w_rows.view();
          x.bits = w.bits = bits;
          const IntegerGradients wanted(cpu, d_y, x, w, key);
          on_every_backend([&](Backend& backend, const std::string& label) {
            const IntegerGradients got(backend, d_y, x, w, key);
            const std::string what = fmt::format("{} x {} of {} {}, {} bits, on {}", rows, columns,
                                                 stride, name(dtype), bits, label);
            EXPECT_TRUE(same_but_for_nans(got.d_x, wanted.d_x)) << what;
            EXPECT_TRUE(same_but_for_nans(got.d_w, wanted.d_w)) << what;
          });
        }
      }
    }
  }
}

// More rows than are summed at once, by rows of codes (7 bits) and by columns.
TEST(SameBits, WeightGradientsOfSeveralBlocksOfRowsAreThoseOfTheCpu) {
  constexpr std::int64_t kM = kRoundedRows + 5, kN = 3, kK = 16;
  CpuBackend cpu(1, Isa::kGeneric);
  const RoundingKey key = RoundingKeys(7, 1, 2).next();
  const OwnedQuantizedRows codes = random_codes(kM, kK, 7, 1);
  const OwnedTensor d_y({kM, kN}, DType::kBF16);
  fill_normal(d_y, 3);
  for (const int bits : {7, 8}) {
    QuantizedRows x = codes.view();
    x.bits = bits;
    OwnedTensor wanted({kN, kK}, DType::kF32);
    cpu.integer_matmul_grad_weight(wanted, d_y, x, key, Write::kSet);
    on_every_backend([&](Backend& backend, const std::string& label) {
      OwnedTensor got({kN, kK}, DType::kF32);
      backend.integer_matmul_grad_weight(got, d_y, x, key, Write::kSet);
      EXPECT_TRUE(got.same_bytes(wanted)) << bits << " bits on " << label;
    });
  }
}

// Around 8 and 16 rows, 16 columns, four loads of a row, and what the warps of a block take at
// once; and rows of codes and weights that no load of 16 bytes may read.
TEST(SameBits, PackedProductsAreThoseOfTheCpu) {
  CpuBackend cpu(1, Isa::kGeneric);
  for (const ProductCase& size : {ProductCase{1, 16, 128},
                                  {8, 17, 640},
                                  {9, 15, 1152},
                                  {16, 40, 2176},
                                  {2, 33, 4224},
                                  {3, 20, 8320},
                                  {16, 16, 72},
                                  {33, 20, 384},
                                  {64, 18, 256},
                                  {17, 70, 640},
                                  {70, 130, 96},
                                  {130, 65, 144},
                                  {65, 20, 200}}) {
    for (int w_bits = kMinBits; w_bits <= kMaxBits; ++w_bits) {
      const OwnedQuantizedRows w = random_codes(size.n, size.k, w_bits, 2);
      const OwnedQuantizedRows x = random_codes(size.m, size.k, 8, 1);
      const OwnedPackedRows packed(w, w_bits);
      for (const Write write : {Write::kSet, Write::kAdd}) {
        const DType type = write == Write::kSet ? DType::kF32 : DType::kBF16;
        const auto run = [&](Backend& backend) {
          OwnedTensor y({size.m, size.n}, type);
          fill_normal(y, 3);
          backend.packed_matmul(y, x.view(), 8, packed.rows, write);
          return y;
        };
        const OwnedTensor wanted = run(cpu);
        on_every_backend([&](Backend& backend, const std::string& label) {
          EXPECT_TRUE(run(backend).same_bytes(wanted))
              << "M " << size.m << " N " << size.n << " K " << size.k << ", " << w_bits
              << " bits on " << label;
        });
      }
    }
  }
}

}  // namespace
}  // namespace quest
