// That the emulation of warpgroups shows errors of kernels: sums that nobody waited for, factors
// that change too early, writes that nobody published, descriptors that say what the kernel does
// not do.
#include <gtest/gtest.h>

#include "backend/cuda/warpgroup_product.cuh"
#include "tests/cuda_kernels/kernel_runs.h"

namespace quest {
namespace {

using namespace cuda;

enum class Mistake {
  kNone,
  kReadsBeforeWait,
  kWaitsForOneGroupLess,
  kOverwritesBeforeWait,
  kPublishesNothing,
  kPublishesTooEarly,
  kOneThreadPublishesNothing,
  kDoesNotSwizzle,
  kBeginsUnfenced,
  kNamesAnotherSwizzle,
  kBeginsBesideAPattern,
  kWarpsDisagree,
  kTouchesSums,
  kDoesNotWait,
};

// One product of 64 x 128 outputs and 32 places, of left factors 1 and right factors 1 or 2: sums
// of 32 or 64, of which each thread writes its first.
template <Mistake kMistake>
__global__ void one_product(std::int32_t* to) {
  using Layout = SwizzledLayout<true>;
  const auto has = [](Mistake mistake) { return mistake == kMistake; };
  std::byte* const left = aligned_shared<1024>() + (has(Mistake::kBeginsBesideAPattern) ? 128 : 0);
  std::byte* const right = left + kWarpgroupRows * Layout::kDepth;
  const int thread = static_cast<int>(threadIdx.x);
  if (has(Mistake::kPublishesTooEarly)) publish_shared_writes();
  for (int chunk = 0; chunk < 8; ++chunk) {
    const int place = has(Mistake::kDoesNotSwizzle) ? thread * Layout::kDepth + chunk * kChunk
                                                    : Layout::chunk_offset(thread, chunk);
    if (thread < kWarpgroupRows) memset(left + place, chunk < 2 ? 1 : 0, kChunk);
    memset(right + place, thread % 2 + 1, kChunk);
  }
  if (!has(Mistake::kPublishesNothing) && !has(Mistake::kPublishesTooEarly) &&
      !(has(Mistake::kOneThreadPublishesNothing) && thread == 77)) {
    publish_shared_writes();
  }
  __syncthreads();
  std::int32_t sums[16][4] = {};
  std::uint64_t a = matrix_descriptor(left);
  const std::uint64_t b = matrix_descriptor(right);
  if (has(Mistake::kNamesAnotherSwizzle)) a ^= std::uint64_t{3} << 62;
  if (has(Mistake::kWarpsDisagree) && thread >= 96) a += 2;
  if (!has(Mistake::kBeginsUnfenced)) begin_products();
  multiply_async<false>(sums, a, b);
  if (has(Mistake::kTouchesSums)) sums[3][1] = 0;
  multiply_async<false>(sums, a + 2, b + 2);  // the left factor is zero there
  commit_products();
  if (has(Mistake::kDoesNotWait)) return;
  std::int32_t sum = sums[0][1];
  if (has(Mistake::kOverwritesBeforeWait) && thread == 5) left[0] = std::byte{9};
  if (has(Mistake::kWaitsForOneGroupLess)) {
    wait_for_products<1>();
    sum = sums[0][1];
  }
  finish_products(sums);
  to[threadIdx.x] =
      has(Mistake::kReadsBeforeWait) || has(Mistake::kWaitsForOneGroupLess) ? sum : sums[0][1];
}

const std::vector<std::int32_t> kNothing(kWarpgroupThreads), kWanted(kWarpgroupThreads, 64);

template <Mistake kMistake>
std::vector<std::int32_t> run() {
  const DeviceArray<std::int32_t> to(kNothing);
  Launch how{"test", nullptr, dim3(1), kWarpgroupThreads, 26 << 10};
  launch(how, one_product<kMistake>, to.get());
  return to.values();
}

TEST(WarpgroupEmulation, AProductWithoutMistakesIsRight) {
  on_every_kernel_run([] { EXPECT_EQ(run<Mistake::kNone>(), kWanted); });
}

TEST(WarpgroupEmulation, AMissingWaitGivesWrongNumbers) {
  on_every_kernel_run([] {
    EXPECT_NE(run<Mistake::kReadsBeforeWait>(), kWanted);
    EXPECT_NE(run<Mistake::kWaitsForOneGroupLess>(), kWanted);
  });
}

TEST(WarpgroupEmulation, AFactorThatChangesTooEarlyGivesWrongNumbers) {
  on_every_kernel_run([] { EXPECT_NE(run<Mistake::kOverwritesBeforeWait>(), kWanted); });
}

TEST(WarpgroupEmulation, WritesThatAreNotPublishedGiveWrongNumbers) {
  on_every_kernel_run([] {
    EXPECT_NE(run<Mistake::kPublishesNothing>(), kWanted);
    EXPECT_NE(run<Mistake::kPublishesTooEarly>(), kWanted);
    EXPECT_NE(run<Mistake::kOneThreadPublishesNothing>(), kWanted);
  });
}

TEST(WarpgroupEmulation, FactorsThatAreNotSwizzledGiveWrongNumbers) {
  on_every_kernel_run([] { EXPECT_NE(run<Mistake::kDoesNotSwizzle>(), kWanted); });
}

TEST(WarpgroupEmulationDeathTest, WhatTheInstructionForbidsIsNamed) {
  EXPECT_DEATH(run<Mistake::kBeginsUnfenced>(), "sums that are not fenced");
  EXPECT_DEATH(run<Mistake::kNamesAnotherSwizzle>(), "not swizzled by 128 bytes");
  EXPECT_DEATH(run<Mistake::kBeginsBesideAPattern>(), "begins at no multiple of 1024 bytes");
  EXPECT_DEATH(run<Mistake::kWarpsDisagree>(), "warps that multiply other factors");
  EXPECT_DEATH(run<Mistake::kTouchesSums>(), "touched while products are underway");
  EXPECT_DEATH(run<Mistake::kDoesNotWait>(), "products it did not wait for");
}

TEST(WarpgroupEmulation, OnlyCapability90HasItsSharedMemory) {
  const DeviceArray<std::int32_t> to(kNothing);
  const Launch how{"test", nullptr, dim3(1), kWarpgroupThreads, 227 << 10};
  cuda_on_host::set_capability(8, 6);
  EXPECT_THROW(launch(how, one_product<Mistake::kNone>, to.get()), Error);
  cuda_on_host::set_capability(9, 0);
  launch(how, one_product<Mistake::kNone>, to.get());
  EXPECT_EQ(to.values(), kWanted);
}

}  // namespace
}  // namespace quest
