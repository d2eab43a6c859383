// That the emulation of copies of tiles shows errors of kernels: waits that do not wait, bytes that
// nobody expects, tiles that change while they are read, barriers that are used too early or too
// late, and phases that never end.
#include <gtest/gtest.h>

#include "backend/cuda/code_product_launch.h"
#include "tests/cuda_kernels/kernel_runs.h"

namespace quest {
namespace {

using namespace cuda;

enum class Mistake {
  kNone,
  kDoesNotWait,
  kWaitsForTheOtherParity,
  kExpectsNothing,
  kExpectsTooFew,
  kExpectsTooMany,
  kRefillsWithoutWaiting,
  kRefillsWithTheOtherParity,
  kNobodyReleases,
  kDoesNotAnnounce,
  kDoesNotSyncAfterMaking,
  kEndsBeforeTheOtherBlock,
  kArrivesTooOften,
  kBeginsBesideAPattern,
  kNamesAnotherRank,
  kWritesOverABarrier,
  kEndsBeforeACopy,
};

constexpr int kTileBytes = PersistentProduct::kRightBytes / 2;
constexpr int kTiles = 3;

// A pair of blocks of two warps: the first thread of warp 1 brings three tiles through one stage,
// each block for both, and warp 0 adds up their first bytes of a line.
template <Mistake kMistake>
__global__ void add_up_tiles(const __grid_constant__ CUtensorMap map, int* sums) {
  const auto has = [](Mistake mistake) { return mistake == kMistake; };
  std::byte* const stage = aligned_shared<1024>() + (has(Mistake::kBeginsBesideAPattern) ? 128 : 0);
  auto* const full = reinterpret_cast<std::uint64_t*>(stage + 2 * kTileBytes);
  std::uint64_t* const empty = full + 1;
  const unsigned block = block_in_cluster();
  if (threadIdx.x == 0) {
    begin_phases(full, 1);
    begin_phases(empty, 2);
    if (!has(Mistake::kDoesNotAnnounce)) announce_phases();
  }
  if (!has(Mistake::kDoesNotSyncAfterMaking)) sync_cluster();
  if (threadIdx.x == 32) {
    for (int tile = 0; tile < kTiles; ++tile) {
      const unsigned parity = (tile + 1) % 2;
      if (has(Mistake::kRefillsWithTheOtherParity)) {
        wait_for_phase(empty, tile == 0 ? 1 : parity ^ 1);
      } else if (!has(Mistake::kRefillsWithoutWaiting)) {
        wait_for_phase(empty, parity);
      }
      int bytes = 2 * kTileBytes;
      if (has(Mistake::kExpectsTooFew)) bytes -= kTileBytes;
      if (has(Mistake::kExpectsTooMany)) bytes += 128;
      if (has(Mistake::kExpectsNothing)) bytes = 0;
      arrive_and_expect(full, static_cast<unsigned>(bytes));
      if (has(Mistake::kArrivesTooOften)) arrive_at(full, block);
      if (has(Mistake::kNamesAnotherRank)) copy_tile(stage, map, {0, 0}, full);
      copy_tile_to_blocks(stage + block * kTileBytes, map, {0, 0, 0, 0, 4 * tile}, full, 3);
    }
    if (has(Mistake::kEndsBeforeACopy)) {
      wait_for_phase(full, 0);
      copy_tile_to_blocks(stage + block * kTileBytes, map, {0, 0, 0, 0, 0}, full, 1u << block);
    }
  }
  if (threadIdx.x < 32) {
    int sum = 0;
    for (unsigned tile = 0; tile < kTiles; ++tile) {
      if (has(Mistake::kWritesOverABarrier) && threadIdx.x == 0) *empty = 0;
      if (has(Mistake::kWaitsForTheOtherParity)) {
        wait_for_phase(full, (tile + 1) % 2);
      } else if (!has(Mistake::kDoesNotWait)) {
        wait_for_phase(full, tile % 2);
      }
      const unsigned line = 4 * threadIdx.x + tile;
      sum += static_cast<int>(stage[128 * line]) + static_cast<int>(stage[kTileBytes + 128 * line]);
      __syncwarp();
      if (threadIdx.x < 2 && !has(Mistake::kNobodyReleases)) arrive_at(empty, threadIdx.x);
    }
    sums[32 * block + threadIdx.x] = sum;
  }
  if (!has(Mistake::kEndsBeforeTheOtherBlock)) sync_cluster();
}

// Tile i is full of i + 1, in both of its halves.
const std::vector<int> kWanted(64, 2 * (1 + 2 + 3));

template <Mistake kMistake>
std::vector<int> run() {
  std::vector<std::int8_t> values(kTiles * kTileBytes);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<std::int8_t>(1 + i / kTileBytes);
  }
  const DeviceArray<std::int8_t> codes(values);
  const DeviceArray<int> sums(std::vector<int>(64));
  const auto map = right_map(product_device(0).encode_map, {codes.get(), 128, 128 * kTiles}, 128);
  launch({"test", nullptr, dim3(2), 64, 2 * kTileBytes + 2048, 2}, add_up_tiles<kMistake>, *map,
         sums.get());
  return sums.values();
}

TEST(TensorCopyEmulation, TilesWithoutMistakesAreRight) {
  on_every_kernel_run([] { EXPECT_EQ(run<Mistake::kNone>(), kWanted); });
}

// Some mistakes give wrong numbers in one order of threads and a phase that never ends, or copies
// after the end, in another; either way the test fails that makes them.
template <Mistake kMistake>
void expect_noticed() {
  on_every_kernel_run([] {
    EXPECT_DEATH(
        {
          if (run<kMistake>() != kWanted) std::fprintf(stderr, "other numbers");
          std::abort();
        },
        "other numbers|a phase that nobody completes|did not wait for|arrival too many");
  });
}

TEST(TensorCopyEmulationDeathTest, WaitsThatDoNotWaitAreNoticed) {
  expect_noticed<Mistake::kDoesNotWait>();
  expect_noticed<Mistake::kWaitsForTheOtherParity>();
  expect_noticed<Mistake::kRefillsWithoutWaiting>();
  expect_noticed<Mistake::kRefillsWithTheOtherParity>();
}

TEST(TensorCopyEmulationDeathTest, BytesThatAreNotThoseThatComeAreNoticed) {
  expect_noticed<Mistake::kExpectsNothing>();
  expect_noticed<Mistake::kExpectsTooFew>();
  EXPECT_DEATH(run<Mistake::kExpectsTooMany>(), "a phase that nobody completes");
}

TEST(TensorCopyEmulationDeathTest, WhatTheInstructionsForbidIsNamed) {
  EXPECT_DEATH(run<Mistake::kNobodyReleases>(), "a phase that nobody completes");
  EXPECT_DEATH(run<Mistake::kDoesNotAnnounce>(), "a barrier that was not announced");
  EXPECT_DEATH(run<Mistake::kDoesNotSyncAfterMaking>(), "a barrier that nobody made");
  EXPECT_DEATH(run<Mistake::kEndsBeforeTheOtherBlock>(), "a barrier of a block that has ended");
  EXPECT_DEATH(run<Mistake::kArrivesTooOften>(), "an arrival too many");
  EXPECT_DEATH(run<Mistake::kNamesAnotherRank>(), "a map of another rank");
  EXPECT_DEATH(run<Mistake::kWritesOverABarrier>(), "a barrier that was overwritten");
  EXPECT_DEATH(run<Mistake::kEndsBeforeACopy>(), "copies that it did not wait for");
}

// A tile that begins beside a pattern is twisted otherwise than one that does not.
template <int kBeside>
__global__ void copy_one(const __grid_constant__ CUtensorMap map, std::byte* to) {
  std::byte* const tile = aligned_shared<1024>() + kBeside;
  auto* const full = reinterpret_cast<std::uint64_t*>(tile + kTileBytes);
  if (threadIdx.x == 0) {
    begin_phases(full, 1);
    announce_phases();
    arrive_and_expect(full, kTileBytes);
    copy_tile(tile, map, {0, 0}, full);
  }
  __syncthreads();
  wait_for_phase(full, 0);
  to[threadIdx.x] = tile[128 * threadIdx.x];
}

TEST(TensorCopyEmulation, ThePatternGoesByAddresses) {
  std::vector<std::int8_t> values(kTileBytes);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int8_t>(i / 16 % 8);
  const DeviceArray<std::int8_t> codes(values);
  const DeviceArray<std::byte> to(std::vector<std::byte>(8)), beside(std::vector<std::byte>(8));
  const auto map = left_map(product_device(0).encode_map, {codes.get(), 128, 128}, 128);
  const Launch how{"test", nullptr, dim3(1), 8, kTileBytes + 2048};
  launch(how, copy_one<0>, *map, to.get());
  launch(how, copy_one<256>, *map, beside.get());
  for (std::size_t line = 0; line < 8; ++line) {
    EXPECT_EQ(to.values()[line], std::byte(line));
    EXPECT_EQ(beside.values()[line], std::byte((line + 2) % 8));
  }
}

TEST(TensorCopyEmulation, ClustersNeedCapability90) {
  const ProductDevice device = product_device(0);
  const std::vector<std::int8_t> values(kTileBytes);
  const DeviceArray<std::int8_t> codes(values);
  const DeviceArray<int> sums(std::vector<int>(64));
  const auto map = right_map(device.encode_map, {codes.get(), 128, 128}, 128);
  const Launch how{"test", nullptr, dim3(2), 64, 1024, 2};
  cuda_on_host::set_capability(8, 6);
  EXPECT_THROW(launch(how, add_up_tiles<Mistake::kNone>, *map, sums.get()), Error);
  cuda_on_host::set_capability(9, 0);
}

TEST(TensorCopyEmulation, MapsThatTheDriverRefusesAreNone) {
  const ProductDevice device = product_device(0);
  const std::vector<std::int8_t> values(kTileBytes);
  const DeviceArray<std::int8_t> codes(values);
  const auto is_made = [&](std::int64_t stride, std::int64_t summed, int beside) {
    return left_map(device.encode_map, {codes.get() + beside, stride, 64}, summed).has_value();
  };
  EXPECT_TRUE(is_made(128, 100, 0));
  EXPECT_FALSE(is_made(120, 100, 0));
  EXPECT_FALSE(is_made(128, 0, 0));
  EXPECT_FALSE(is_made(128, 100, 8));
}

TEST(TensorCopyEmulation, ADriverWithoutMapsLeavesTheOtherKernels) {
  cuda_on_host::set_tensor_maps(false);
  EXPECT_EQ(product_device(0).encode_map, nullptr);
  cuda_on_host::set_tensor_maps(true);
  EXPECT_NE(product_device(0).encode_map, nullptr);
}

}  // namespace
}  // namespace quest
