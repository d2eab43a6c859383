// code_product_kernel alone: every shape of blocks and every factor against plain loops, at sizes
// around the edges of tiles and of the pipeline, and without conflicts of shared memory's banks.
#include <gtest/gtest.h>

#include "backend/cuda/code_product_launch.h"
#include "backend/kernel_cases.h"
#include "quant/packing.h"
#include "tests/cuda_kernels/kernel_runs.h"

namespace quest {
namespace {

using namespace cuda;

struct Size {
  std::int64_t rows, columns, summed;
};

// Rows of bytes that begin at multiples of 16 and have random bytes behind their ends.
struct Bytes {
  std::int64_t stride;
  std::vector<std::int8_t> values;

  Bytes(std::int64_t rows, std::int64_t columns, std::uint64_t seed)
      : stride((columns + 15) / 16 * 16), values(static_cast<std::size_t>(rows * stride)) {
    Rng rng(seed, RngPurpose::kTest);
    for (std::int8_t& value : values) {
      value = static_cast<std::int8_t>(static_cast<int>(rng.below(256)) - 128);
    }
  }
  std::int32_t at(std::int64_t row, std::int64_t column) const {
    return values[static_cast<std::size_t>(row * stride + column)];
  }
};

// What a factor's codes are: value(i, s) of output i at place s.
struct ByRow {
  const Bytes& bytes;
  std::int32_t operator()(std::int64_t i, std::int64_t s) const { return bytes.at(i, s); }
};
struct ByColumn {
  const Bytes& bytes;
  std::int32_t operator()(std::int64_t i, std::int64_t s) const { return bytes.at(s, i); }
};

// The output: rows wider than the product, whose other columns must stay as they are.
struct Output {
  DType type;
  bool add;
  std::int64_t before, after;  // columns on either side
};
constexpr Output kOutputs[] = {{DType::kF32, false, 0, 0},
                               {DType::kF32, true, 3, 4},
                               {DType::kBF16, false, 8, 8},
                               {DType::kBF16, true, 0, 0}};

// Fills a tensor with numbers, runs `run` on its columns, and compares with value(i, j).
template <typename Run, typename Value>
void expect_output(const Size& size, const Output& how, const std::string& what, Run run,
                   Value value) {
  const std::int64_t stride = how.before + size.columns + how.after;
  OwnedTensor wanted({size.rows, stride}, how.type);
  fill_normal(wanted, 5);
  const Tensor all = wanted;
  const auto* const bytes = static_cast<const std::byte*>(all.data);
  const DeviceArray<std::byte> got(std::vector<std::byte>(bytes, bytes + all.bytes()));
  const Tensor on_device(got.get(), all.shape, how.type, Place::kCuda);
  run(on_device.columns(how.before, how.before + size.columns));
  for (std::int64_t i = 0; i < size.rows; ++i) {
    for (std::int64_t j = 0; j < size.columns; ++j) {
      const std::int64_t column = how.before + j;
      const auto before = static_cast<float>(element(all, i, column));
      const float sum = how.add ? before + value(i, j) : value(i, j);
      if (how.type == DType::kBF16) {
        all.row<BFloat16>(i)[column] = to_bfloat16(sum);
      } else {
        all.row<float>(i)[column] = sum;
      }
    }
  }
  EXPECT_EQ(std::memcmp(got.values().data(), all.data, all.bytes()), 0)
      << what << ", " << size.rows << " x " << size.columns << " x " << size.summed << " to "
      << name(how.type);
}

template <typename Left, typename Right>
std::vector<std::int32_t> sums_of(const Size& size, const Left& left, const Right& right) {
  std::vector<std::int32_t> sums;
  for (std::int64_t i = 0; i < size.rows; ++i) {
    for (std::int64_t j = 0; j < size.columns; ++j) {
      std::int32_t sum = 0;
      for (std::int64_t s = 0; s < size.summed; ++s) sum += left(i, s) * right(j, s);
      sums.push_back(sum);
    }
  }
  return sums;
}

std::vector<float> random_scales(std::int64_t count, std::uint64_t seed) {
  Rng rng(seed, RngPurpose::kTest);
  std::vector<float> scales;
  for (std::int64_t i = 0; i < count; ++i) {
    scales.push_back(static_cast<float>(0.1 + rng.uniform()));
  }
  return scales;
}

template <typename Value>
std::vector<std::int32_t> line_sums(std::int64_t count, std::int64_t summed, const Value& value) {
  std::vector<std::int32_t> sums(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t s = 0; s < summed; ++s) sums[static_cast<std::size_t>(i)] += value(i, s);
  }
  return sums;
}

// Ways to launch a product: in blocks of a shape, or in persistent blocks as on a device of so many
// multiprocessors.
template <typename Shape>
struct InBlocks {
  template <typename Left, typename Right, typename Write>
  void operator()(const Left& left, const Right& right, const Write& write,
                  const CodeProductSize& size) const {
    launch_code_product<Shape>("test", nullptr, left, right, write, size);
  }
};
struct InPersistentBlocks {
  int multiprocessors;
  template <typename Write>
  void operator()(const CodeRows& left, const CodeRows& right, const Write& write,
                  const CodeProductSize& size) const {
    ProductDevice device = product_device(0);
    device.multiprocessors = multiprocessors;
    EXPECT_TRUE(launch_persistent_product("test", nullptr, device, left, right, write, size));
  }
};

// One product of codes by rows; `right` is what the kernel is given, `code` what it stands for.
template <typename Right, typename Code, typename Launch>
void expect_quantized(const Size& size, const Bytes& left, const Right& right, unsigned offset,
                      const Code& code, const std::string& what, const Launch& launch_product) {
  const ByRow left_code{left};
  const auto odd_left = [&](std::int64_t i, std::int64_t s) { return 2 * left_code(i, s) + 1; };
  const auto odd_right = [&](std::int64_t j, std::int64_t s) { return 2 * code(j, s) + 1; };
  const auto sums = sums_of(size, odd_left, odd_right);
  const auto x_steps = random_scales(size.rows, 1), w_steps = random_scales(size.columns, 2);
  const auto x_sums = line_sums(size.rows, size.summed, left_code);
  const auto w_sums = line_sums(size.columns, size.summed, code);
  const DeviceArray<std::int8_t> codes(left.values);
  const DeviceArray<float> x_scales(x_steps), w_scales(w_steps);
  const DeviceArray<std::int32_t> x_line_sums(x_sums), w_line_sums(w_sums);
  for (const Output& how : kOutputs) {
    expect_output(
        size, how, what,
        [&](Tensor out) {
          const WriteQuantized write{{out.data, out.row_stride, how.type == DType::kBF16},
                                     how.add,
                                     x_scales.get(),
                                     w_scales.get(),
                                     x_line_sums.get(),
                                     w_line_sums.get(),
                                     size.summed,
                                     offset};
          launch_product(CodeRows{codes.get(), left.stride, size.rows}, right, write,
                         {size.rows, size.columns, size.summed, rows_begin_at(out, 16)});
        },
        [&](std::int64_t i, std::int64_t j) {
          return static_cast<float>(sums[static_cast<std::size_t>(i * size.columns + j)]) *
                 (x_steps[static_cast<std::size_t>(i)] *
                  (w_steps[static_cast<std::size_t>(j)] * 0.25f));
        });
  }
}

// Codes packed with `bits`, made of the same bytes.
template <typename Shape, int kBits>
void expect_packed(const Size& size, const Bytes& left, const Bytes& right) {
  const auto code = [&](std::int64_t j, std::int64_t s) { return right.at(j, s) >> (8 - kBits); };
  const std::int64_t row_bytes = packed_row_bytes(size.summed, kBits);
  const std::int64_t stride = (row_bytes + 15) / 16 * 16;
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(size.columns * stride), 0xff);
  for (std::int64_t j = 0; j < size.columns; ++j) {
    std::vector<std::int8_t> row;
    for (std::int64_t s = 0; s < size.summed; ++s)
      row.push_back(static_cast<std::int8_t>(code(j, s)));
    pack_codes(packed.data() + j * stride, row.data(), size.summed, kBits);
  }
  const DeviceArray<std::uint8_t> bytes(packed);
  const std::string what = std::to_string(kBits) + " bits";
  constexpr unsigned kOffset = 1u << (kBits - 1);
  if constexpr (kBits == 8) {
    const UnsignedCodeRows factor{reinterpret_cast<const std::int8_t*>(bytes.get()), stride,
                                  size.columns};
    expect_quantized(size, left, factor, kOffset, code, what, InBlocks<Shape>());
  } else {
    const PackedCodeRows<kBits> factor{bytes.get(), stride, size.columns, row_bytes};
    expect_quantized(size, left, factor, kOffset, code, what, InBlocks<Shape>());
  }
}

template <typename Shape>
void expect_products_by_row(const Size& size) {
  const Bytes left(size.rows, size.summed, 3), right(size.columns, size.summed, 4);
  const DeviceArray<std::int8_t> codes(right.values);
  const CodeRows rows{codes.get(), right.stride, size.columns};
  expect_quantized(size, left, rows, 0, ByRow{right}, "codes", InBlocks<Shape>());
  expect_packed<Shape, 1>(size, left, right);
  expect_packed<Shape, 2>(size, left, right);
  expect_packed<Shape, 4>(size, left, right);
  expect_packed<Shape, 8>(size, left, right);
}

// scale_i * sum of left(i, s) (2 right(j, s) + 1), right factors by column.
template <typename Shape, typename Left, typename Value>
void expect_odd_lines(const Size& size, const Bytes& left, const Value& value, const Bytes& right,
                      const std::string& what) {
  const auto odd = [&](std::int64_t j, std::int64_t s) { return 2 * right.at(s, j) + 1; };
  const auto sums = sums_of(size, value, odd);
  const auto scales = random_scales(size.rows, 1);
  const DeviceArray<std::int8_t> left_codes(left.values), right_codes(right.values);
  const DeviceArray<float> line_scales(scales);
  for (const Output& how : kOutputs) {
    expect_output(
        size, how, what,
        [&](Tensor out) {
          const WriteOddLines write{
              {out.data, out.row_stride, how.type == DType::kBF16}, how.add, line_scales.get()};
          launch_code_product<Shape>(
              "test", nullptr, Left{left_codes.get(), left.stride, size.rows},
              CodeColumns{right_codes.get(), right.stride, size.columns}, write,
              {size.rows, size.columns, size.summed, rows_begin_at(out, 16)});
        },
        [&](std::int64_t i, std::int64_t j) {
          return static_cast<float>(sums[static_cast<std::size_t>(i * size.columns + j)]) *
                 scales[static_cast<std::size_t>(i)];
        });
  }
}

template <typename Shape>
void expect_products_by_column(const Size& size) {
  const Bytes rows(size.rows, size.summed, 3), columns(size.summed, size.rows, 4);
  const Bytes right(size.summed, size.columns, 5);
  expect_odd_lines<Shape, CodeRows>(size, rows, ByRow{rows}, right, "rows by columns");
  expect_odd_lines<Shape, CodeColumns>(size, columns, ByColumn{columns}, right,
                                       "columns by columns");
}

// Sums of fewer, as many and more steps than a pipeline has stages, whole and with tails. The last
// two kinds of blocks are those of warpgroups.
constexpr Size kSmallSizes[] = {
    {1, 1, 16}, {63, 65, 70}, {64, 64, 64}, {65, 129, 500}, {5, 40, 384}};
constexpr Size kMiddleSizes[] = {{128, 128, 64}, {129, 127, 271}};
constexpr Size kLargeSizes[] = {{256, 128, 128}, {257, 129, 330}};
constexpr Size kNarrowSizes[] = {{1, 1, 16}, {65, 40, 128}, {128, 128, 384}, {129, 127, 530}};
constexpr Size kWideSizes[] = {{1, 9, 129}, {128, 256, 256}, {65, 257, 650}};

TEST(CodeProduct, OfRowsHasTheBitsOfPlainLoopsInEveryShape) {
  on_every_kernel_run([] {
    for (const Size& size : kSmallSizes) expect_products_by_row<SmallCodeProduct>(size);
    for (const Size& size : kMiddleSizes) expect_products_by_row<MiddleCodeProduct>(size);
    for (const Size& size : kLargeSizes) expect_products_by_row<LargeCodeProduct>(size);
  });
}

TEST(CodeProduct, OfWarpgroupsHasTheBitsOfPlainLoopsInEveryShape) {
  if (!product_device(0).has_warpgroups) GTEST_SKIP() << "no device of capability 9.0";
  on_every_kernel_run([] {
    for (const Size& size : kNarrowSizes) expect_products_by_row<NarrowWarpgroupProduct>(size);
    for (const Size& size : kWideSizes) expect_products_by_row<WideWarpgroupProduct>(size);
  });
}

// Products of codes by rows, as of quantized_matmul and of integer gradients, in persistent blocks.
void expect_persistent(const Size& size, int multiprocessors) {
  const InPersistentBlocks launch_product{multiprocessors};
  const Bytes left(size.rows, size.summed, 3), right(size.columns, size.summed, 4);
  const DeviceArray<std::int8_t> left_codes(left.values), right_codes(right.values);
  const CodeRows rights{right_codes.get(), right.stride, size.columns};
  expect_quantized(size, left, rights, 0, ByRow{right}, "codes", launch_product);
  const auto sums = sums_of(size, ByRow{left}, ByRow{right});
  const auto scales = random_scales(size.rows, 1);
  const DeviceArray<float> line_scales(scales);
  for (const Output& how : kOutputs) {
    expect_output(
        size, how, "lines",
        [&](Tensor out) {
          const WriteLines write{
              {out.data, out.row_stride, how.type == DType::kBF16}, how.add, line_scales.get()};
          launch_product(CodeRows{left_codes.get(), left.stride, size.rows}, rights, write,
                         {size.rows, size.columns, size.summed, rows_begin_at(out, 16)});
        },
        [&](std::int64_t i, std::int64_t j) {
          return static_cast<float>(sums[static_cast<std::size_t>(i * size.columns + j)]) *
                 scales[static_cast<std::size_t>(i)];
        });
  }
}

// Tiles of 256 x 256 outputs, stages of 128 places, of which there are four.
TEST(CodeProduct, OfPersistentBlocksHasTheBitsOfPlainLoops) {
  if (product_device(0).encode_map == nullptr) GTEST_SKIP() << "no device of capability 9.0";
  on_every_kernel_run([] {
    expect_persistent({1, 32, 16}, 2);      // one row of one block, one step
    expect_persistent({128, 256, 128}, 3);  // one block's rows; a multiprocessor without a pair
    expect_persistent({129, 224, 530}, 2);  // as many steps as stages, and a tail
    expect_persistent({257, 288, 300}, 2);  // four tiles one after the other
    expect_persistent({40, 608, 64}, 4);    // three tiles of one step for two pairs
    expect_persistent({300, 544, 912}, 8);  // six for four, of more steps than stages
  });
}

TEST(CodeProduct, OfColumnsHasTheBitsOfPlainLoopsInEveryShape) {
  on_every_kernel_run([] {
    for (const Size& size : kSmallSizes) expect_products_by_column<SmallCodeProduct>(size);
    for (const Size& size : kMiddleSizes) expect_products_by_column<MiddleCodeProduct>(size);
    for (const Size& size : kLargeSizes) expect_products_by_column<LargeCodeProduct>(size);
  });
}

TEST(CodeProduct, WarpgroupsTakeManyRowsWhereTheDeviceHasThem) {
  const auto chosen = [](CodeKernels kernels, std::int64_t rows, std::int64_t columns) {
    return choose_code_blocks(132, kernels, {rows, columns, 2048, true});
  };
  using enum CodeKernels;
  EXPECT_EQ(chosen(kPersistent, 4096, 2048), CodeBlocks::kPersistent);
  EXPECT_EQ(chosen(kPersistent, 2048, 2048), CodeBlocks::kPersistent);  // 64 pairs of 66
  EXPECT_EQ(chosen(kPersistent, 1024, 2048), CodeBlocks::kNarrowWarpgroups);
  EXPECT_EQ(chosen(kPersistent, 65, 2048), CodeBlocks::kSmall);
  EXPECT_EQ(chosen(kWarpgroups, 8192, 2048), CodeBlocks::kWideWarpgroups);
  EXPECT_EQ(chosen(kWarpgroups, 2048, 2048), CodeBlocks::kWideWarpgroups);  // 128 blocks of 132
  EXPECT_EQ(chosen(kWarpgroups, 1024, 2048), CodeBlocks::kNarrowWarpgroups);
  EXPECT_EQ(chosen(kWarpgroups, 65, 2048), CodeBlocks::kSmall);
  EXPECT_EQ(chosen(kTensorCores, 8192, 2048), CodeBlocks::kLarge);
  EXPECT_EQ(chosen(kTensorCores, 2048, 2048), CodeBlocks::kMiddle);
  EXPECT_EQ(chosen(kTensorCores, 64, 32768), CodeBlocks::kSmall);
}

TEST(CodeProduct, WhatAKernelCannotTakeItIsNotGiven) {
  const CodeProductSize whole{4096, 2048, 2048, true}, odd{4096, 2056, 2048, true};
  ProductDevice device{132, true, nullptr};
  const auto of_codes = suitable_kernels<CodeRows, CodeRows, WriteLines>;
  EXPECT_EQ(of_codes({132}, whole), CodeKernels::kTensorCores);
  EXPECT_EQ(of_codes(device, whole), CodeKernels::kWarpgroups);  // a driver without maps
  device.encode_map = [](auto...) { return CUDA_ERROR_INVALID_VALUE; };
  EXPECT_EQ(of_codes(device, whole), CodeKernels::kPersistent);
  EXPECT_EQ(of_codes(device, odd), CodeKernels::kWarpgroups);
  EXPECT_EQ((suitable_kernels<CodeRows, PackedCodeRows<4>, WriteQuantized>(device, whole)),
            CodeKernels::kWarpgroups);
  EXPECT_EQ((suitable_kernels<CodeRows, CodeColumns, WriteOddLines>(device, whole)),
            CodeKernels::kTensorCores);
}

// More than one group of eight tiles of rows, the last one not full.
TEST(CodeProduct, EveryTileOfALargeGridIsWritten) {
  on_every_kernel_run([] { expect_products_by_column<SmallCodeProduct>({64 * 11, 64 * 2, 16}); });
}

}  // namespace
}  // namespace quest
