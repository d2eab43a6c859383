// Rows that are rotated, quantized and rotated back have the bits of the CPU's kernels, wherever
// rows begin and end: those that vectors suit, those that they do not, and those that registers do
// not hold at once.
#include <gtest/gtest.h>

#include <limits>

#include "backend/backends_under_test.h"
#include "backend/cpu/closeness.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/fused_quantization_for_test.h"
#include "backend/kernel_cases.h"

namespace quest {
namespace {

constexpr std::int64_t kRows = 6;
constexpr DType kFloats[] = {DType::kF32, DType::kBF16};

/// Row lengths, by their blocks: whole groups in one warp or in parts of several, in more than a
/// block of threads holds; then rows that no vectors suit, the last two in several parts.
constexpr std::int64_t kLengths[] = {128, 2048, 2176, 4096, 20608, 16,
                                     72,  160,  1001, 1728, 8224,  16392};

RowQuantizer quantizer_of(int bits, std::int64_t block, Estimator estimator = Estimator::kTrust) {
  RowQuantizer quantizer;
  quantizer.grid = Grid::gaussian(bits);
  quantizer.estimator = estimator;
  quantizer.kappa = 1.3;
  quantizer.block = block;
  return quantizer;
}

void set(const Tensor& x, std::int64_t r, std::int64_t c, float value) {
  if (x.dtype == DType::kF32) {
    x.row<float>(r)[c] = value;
  } else {
    x.row<BFloat16>(r)[c] = to_bfloat16(value);
  }
}

/// Normal rows; one of zeros, one with a single value, one that is broken in its last.
void fill_rows(const Tensor& x) {
  fill_normal(x, static_cast<std::uint64_t>(x.cols()), 3.0);
  for (std::int64_t c = 0; c < x.cols(); ++c) {
    set(x, 1, c, 0.0f);
    set(x, 2, c, 0.0f);
  }
  set(x, 2, x.cols() / 2, -1000.0f);
  set(x, 3, x.cols() - 1, std::numeric_limits<float>::infinity());
}

void expect_codes_of_cpu(const Tensor& x, const RowQuantizer& quantizer, const std::string& what) {
  CpuBackend cpu(1, Isa::kGeneric);
  const OwnedQuantizedRows wanted(x.rows(), x.cols());
  cpu.quantize_rows(wanted.view(), x, quantizer);
  on_every_backend([&](Backend& backend, const std::string& label) {
    for (const bool with_mask : {true, false}) {
      const OwnedQuantizedRows got(x.rows(), x.cols());
      if (!with_mask)
        std::memcpy(got.mask.view().data, wanted.mask.view().data, wanted.mask.view().bytes());
      backend.quantize_rows(got.view(with_mask), x, quantizer);
      EXPECT_TRUE(got.same_bytes(wanted))
          << what << ", " << quantizer.grid.bits << " bits in blocks of " << quantizer.block
          << " on " << label;
    }
  });
}

TEST(SameRowBits, CodesOfRowsOfAnyLength) {
  for (const std::int64_t columns : kLengths) {
    for (const DType dtype : kFloats) {
      const OwnedTensor x({kRows, columns}, dtype);
      fill_rows(x);
      const std::int64_t block = hadamard_block(columns);
      const std::string what = fmt::format("K {} {}", columns, type_name(dtype));
      expect_codes_of_cpu(x, quantizer_of(1, block, Estimator::kClip), what);
      expect_codes_of_cpu(x, quantizer_of(4, block), what);
      expect_codes_of_cpu(x, quantizer_of(8, block, Estimator::kSte), what);
      expect_codes_of_cpu(x, quantizer_of(8, 1), what);
    }
  }
}

TEST(SameRowBits, CodesOfColumnSlicesWhereverTheyBegin) {
  for (const std::int64_t columns : {128, 384}) {
    for (const DType dtype : kFloats) {
      for (const std::int64_t begin : {1, 4, 8}) {
        for (const std::int64_t beyond : {0, 7, 8}) {
          const OwnedTensor whole({kRows, begin + columns + beyond}, dtype);
          const Tensor x = whole.view().columns(begin, begin + columns);
          fill_rows(x);
          expect_codes_of_cpu(x, quantizer_of(4, 128),
                              fmt::format("K {} {} from {}", columns, type_name(dtype), begin));
        }
      }
    }
  }
}

// All of a row in one value, as far from the others as there is: also where vectors no longer may.
TEST(SameRowBits, CodesOfTheFarthestValues) {
  for (const std::int64_t columns : {128 << 10, 512 << 10}) {
    for (const std::int64_t block : {1, 128}) {
      const OwnedTensor x({2, columns}, DType::kBF16);
      for (std::int64_t c = 0; c < block; ++c) {
        set(x, 0, 256 + c, 3.0f);
        set(x, 1, 256 + c, -3.0f);
      }
      expect_codes_of_cpu(x, quantizer_of(8, block), fmt::format("K {}", columns));
    }
  }
}

TEST(SameRowBits, CodesOfRowsInBlocksOfMoreThan128) {
  for (const std::int64_t columns : {256, 1280, 8192}) {
    for (const DType dtype : kFloats) {
      const OwnedTensor x({kRows, columns}, dtype);
      fill_rows(x);
      for (std::int64_t block = 256; columns % block == 0; block *= 2) {
        expect_codes_of_cpu(x, quantizer_of(4, block), fmt::format("K {}", columns));
      }
    }
  }
}

struct Gradient {
  std::int64_t columns, block;
  DType in, out;
  Write write;
  bool masked;
};

/// d_z, or d_z itself rotated in its place.
OwnedTensor rotated_back(Backend& backend, const Gradient& g, bool in_place) {
  OwnedTensor d_z({kRows, g.columns}, g.in), d_x({kRows, g.columns}, g.out);
  OwnedTensor mask({kRows, (g.columns + 7) / 8}, DType::kU8);
  fill_normal(d_z, 1);
  fill_normal(d_x, 2);
  Rng rng(11, RngPurpose::kTest);
  for (std::int64_t i = 0; i < mask.view().numel(); ++i) {
    mask.view().as<std::uint8_t>()[i] = static_cast<std::uint8_t>(rng.below(256));
  }
  const Tensor used = g.masked ? mask.view() : Tensor();
  backend.quantize_rows_backward(in_place ? d_z : d_x, d_z, used, g.block, g.write);
  return in_place ? std::move(d_z) : std::move(d_x);
}

void expect_gradient_of_cpu(const Gradient& g) {
  CpuBackend cpu(1, Isa::kGeneric);
  const OwnedTensor wanted = rotated_back(cpu, g, false);
  const OwnedTensor wanted_in_place = rotated_back(cpu, g, true);
  on_every_backend([&](Backend& backend, const std::string& label) {
    const std::string what = fmt::format(
        "K {} in blocks of {}, {} to {}{}{} on {}", g.columns, g.block, type_name(g.in),
        type_name(g.out), g.write == Write::kAdd ? ", +=" : "", g.masked ? ", masked" : "", label);
    EXPECT_TRUE(rotated_back(backend, g, false).same_bytes(wanted)) << what;
    EXPECT_TRUE(rotated_back(backend, g, true).same_bytes(wanted_in_place)) << "in place, " << what;
  });
}

TEST(SameRowBits, GradientsOfRowsOfAnyLengthInPlaceToo) {
  for (const std::int64_t columns : kLengths) {
    for (const DType in : kFloats) {
      for (const DType out : kFloats) {
        for (const Write write : {Write::kSet, Write::kAdd}) {
          for (const bool masked : {false, true}) {
            expect_gradient_of_cpu({columns, hadamard_block(columns), in, out, write, masked});
          }
        }
      }
    }
  }
  expect_gradient_of_cpu({1280, 256, DType::kBF16, DType::kBF16, Write::kAdd, true});
  expect_gradient_of_cpu({8192, 1024, DType::kF32, DType::kF32, Write::kSet, true});
}

TEST(SameRowBits, RowsOfCodesBackToValues) {
  CpuBackend cpu(1, Isa::kGeneric);
  for (const std::int64_t columns : kLengths) {
    const OwnedQuantizedRows codes = random_codes(kRows, columns, 8, 1);
    for (const DType dtype : kFloats) {
      const OwnedTensor wanted({kRows, columns}, dtype);
      cpu.dequantize_rows(wanted, codes.view(), hadamard_block(columns));
      on_every_backend([&](Backend& backend, const std::string& label) {
        const OwnedTensor got({kRows, columns}, dtype);
        backend.dequantize_rows(got, codes.view(), hadamard_block(columns));
        EXPECT_TRUE(got.same_bytes(wanted)) << columns << type_name(dtype) << " on " << label;
      });
    }
  }
}

// The norm's sum is in another order than the CPU's, but one for all kernels.
TEST(SameRowBits, FusedWithNormOrSwigluTheyAreThoseOfTwoKernels) {
  for (const std::int64_t columns : kLengths) {
    for (const DType dtype : kFloats) {
      on_every_backend([&](Backend& backend, const std::string& label) {
        expect_fused_quantization(backend, kRows, columns, dtype,
                                  quantizer_of(4, hadamard_block(columns)),
                                  fmt::format("K {} {} on {}", columns, type_name(dtype), label));
      });
    }
  }
}

}  // namespace
}  // namespace quest
