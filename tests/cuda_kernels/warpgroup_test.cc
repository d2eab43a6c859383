// The functions of warpgroup.cuh alone, against plain loops: what descriptors say, what threads
// hold of a product, and what wraps. Skipped on devices without warpgroups.
#include "backend/cuda/warpgroup.cuh"

#include <gtest/gtest.h>

#include <numeric>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/warpgroup_product.cuh"
#include "core/rng.h"
#include "tests/cuda_kernels/kernel_runs.h"

namespace quest {
namespace {

constexpr int kRows = cuda::kWarpgroupRows;
using Layout = cuda::SwizzledLayout<true>;  // lines in the order of rows
constexpr int kDepth = Layout::kDepth;

// rows of kDepth bytes as a tile, by all threads.
__device__ void write_tile(std::byte* tile, const void* rows, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count * 8; i += static_cast<int>(blockDim.x)) {
    memcpy(tile + Layout::chunk_offset(i / 8, i % 8), static_cast<const std::byte*>(rows) + i * 16,
           16);
  }
}

// sums [64 a warpgroup, kColumns] += left [rows, kDepth] right [kColumns, kDepth]^T, in `groups`
// groups of products, of which each adds all of the sum.
template <int kColumns, typename Right>
__global__ void product_of_warpgroups(std::int32_t* sums, const std::int8_t* left,
                                      const Right* right, int groups) {
  if constexpr (cuda::kHasWarpgroups) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int rows = static_cast<int>(blockDim.x) / 2;
    std::byte* const lefts = cuda::aligned_shared<Layout::kPatternBytes>();
    std::byte* const rights = lefts + rows * kDepth;
    write_tile(lefts, left, rows);
    write_tile(rights, right, kColumns);
    cuda::publish_shared_writes();
    __syncthreads();
    std::int32_t own[kColumns / 8][4];
    const auto output = [&](int i) -> std::int32_t& {
      const int row = 16 * warp + lane / 4 + i / 2 % 2 * 8,
                column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      return sums[row * kColumns + column];
    };
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) own[i / 4][i % 4] = output(i);
    const std::uint64_t a = cuda::matrix_descriptor(lefts + warp / 4 * kRows * kDepth);
    const std::uint64_t b = cuda::matrix_descriptor(rights);
    for (int group = 0; group < groups; ++group) {
      cuda::begin_products();
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        cuda::multiply_async<std::is_same_v<Right, std::uint8_t>>(own, a + 2 * part, b + 2 * part);
      }
      cuda::commit_products();
      cuda::wait_for_products<1>();
    }
    cuda::finish_products(own);
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) output(i) = own[i / 4][i % 4];
  }
}

template <typename Value>
std::vector<Value> random_bytes(int count, std::uint64_t seed) {
  Rng rng(seed, RngPurpose::kTest);
  std::vector<Value> values(static_cast<std::size_t>(count));
  for (Value& value : values) value = static_cast<Value>(rng.below(256));
  return values;
}

template <int kColumns, typename Right>
void expect_products_of_plain_loops(int warpgroups, int groups, std::int32_t before) {
  if (!cuda::product_device(0).has_warpgroups) GTEST_SKIP() << "no device of capability 9.0";
  const int rows = warpgroups * kRows;
  const auto a = random_bytes<std::int8_t>(rows * kDepth, 1);
  const auto b = random_bytes<Right>(kColumns * kDepth, 2);
  std::vector<std::int32_t> wanted(static_cast<std::size_t>(rows * kColumns));
  std::iota(wanted.begin(), wanted.end(), before);
  const DeviceArray<std::int32_t> sums(wanted);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const std::size_t row = i / kColumns * kDepth, column = i % kColumns * kDepth;
    unsigned sum = 0;
    for (std::size_t s = 0; s < kDepth; ++s)
      sum += static_cast<unsigned>(a[row + s] * b[column + s]);
    wanted[i] = static_cast<std::int32_t>(static_cast<unsigned>(wanted[i]) +
                                          static_cast<unsigned>(groups) * sum);
  }
  const DeviceArray<std::int8_t> left(a);
  const DeviceArray<Right> right(b);
  Launch how{"test", nullptr, dim3(1), static_cast<unsigned>(warpgroups * 128)};
  how.shared_bytes = (rows + kColumns) * kDepth + Layout::kPatternBytes - 128;
  launch(how, product_of_warpgroups<kColumns, Right>, sums.get(), left.get(), right.get(), groups);
  EXPECT_EQ(sums.values(), wanted) << kColumns << " columns";
}

TEST(Warpgroup, ProductsAreThoseOfPlainLoops) {
  on_every_kernel_run([] {
    expect_products_of_plain_loops<128, std::int8_t>(1, 1, -50);
    expect_products_of_plain_loops<256, std::int8_t>(1, 1, -50);
  });
}

TEST(Warpgroup, ProductsWithUnsignedIntegersAreThoseOfPlainLoops) {
  on_every_kernel_run([] {
    expect_products_of_plain_loops<128, std::uint8_t>(1, 1, 0);
    expect_products_of_plain_loops<256, std::uint8_t>(1, 1, 0);
  });
}

TEST(Warpgroup, TwoOfThemAddUpSeveralGroupsInOrder) {
  on_every_kernel_run([] {
    expect_products_of_plain_loops<128, std::int8_t>(2, 3, 7);
    expect_products_of_plain_loops<256, std::int8_t>(2, 3, 7);
  });
}

TEST(Warpgroup, SumsWrap) {
  on_every_kernel_run([] { expect_products_of_plain_loops<128, std::int8_t>(1, 1, 0x7ffff000); });
}

}  // namespace
}  // namespace quest
