// The functions of tensor_copy.cuh alone, with the maps of products: where bytes of rows come to
// lie in shared memory, what is beyond a tensor, and tiles for both blocks of a pair. Skipped on
// devices without them.
#include "backend/cuda/tensor_copy.cuh"

#include <gtest/gtest.h>

#include "backend/cuda/code_product_launch.h"
#include "core/rng.h"
#include "tests/cuda_kernels/kernel_runs.h"

namespace quest {
namespace {

using namespace cuda;

constexpr int kRows = PersistentProduct::kBlockRows;  // of either map's boxes
constexpr int kDepth = PersistentProduct::kDepth;
constexpr int kTileBytes = kRows * kDepth;
using RightLayout = SwizzledLayout<false>;
using LeftLayout = SwizzledLayout<true>;

// Each block of a pair writes out what it got: its own tile by `left`, from its own row on, and two
// halves by `right`, of which each block sent one to both.
__global__ void copy_tiles(const __grid_constant__ CUtensorMap left,
                           const __grid_constant__ CUtensorMap right, std::byte* to, int place) {
  if constexpr (kHasWarpgroups) {
    std::byte* const tiles = aligned_shared<LeftLayout::kPatternBytes>();
    auto* const full = reinterpret_cast<std::uint64_t*>(tiles + 3 * kTileBytes);
    const int block = static_cast<int>(block_in_cluster());
    if (threadIdx.x == 0) {
      begin_phases(full, 1);
      announce_phases();
    }
    sync_cluster();
    if (threadIdx.x == 0) {
      arrive_and_expect(full, 3 * kTileBytes);
      copy_tile(tiles, left, {place, block * kRows}, full);
      copy_tile_to_blocks(tiles + (1 + block) * kTileBytes, right,
                          {place, 0, 0, 0, block * kRows / 32}, full, 3);
    }
    wait_for_phase(full, 0);
    for (int i = static_cast<int>(threadIdx.x); i < 3 * kTileBytes;
         i += static_cast<int>(blockDim.x)) {
      to[block * 3 * kTileBytes + i] = tiles[i];
    }
    sync_cluster();
  }
}

// Copies boxes of [count, summed] codes from `place` on, and compares all bytes with the layouts
// that products read.
void expect_tiles(std::int64_t count, std::int64_t summed, int place) {
  const ProductDevice device = product_device(0);
  if (device.encode_map == nullptr) GTEST_SKIP() << "no device of capability 9.0";
  const std::int64_t stride = (summed + 31) / 16 * 16;
  std::vector<std::int8_t> values(static_cast<std::size_t>(count * stride));
  Rng rng(1, RngPurpose::kTest);
  for (std::int8_t& value : values) value = static_cast<std::int8_t>(rng.below(256));
  const DeviceArray<std::int8_t> codes(values);
  const CodeRows rows{codes.get(), stride, count};
  const auto left = left_map(device.encode_map, rows, summed);
  const auto right = right_map(device.encode_map, rows, summed);
  ASSERT_TRUE(left && right);
  const DeviceArray<std::byte> to(std::vector<std::byte>(6 * kTileBytes));
  launch({"test", nullptr, dim3(2), 128, 3 * kTileBytes + 8 + LeftLayout::kPatternBytes - 128, 2},
         copy_tiles, *left, *right, to.get(), place);
  const std::vector<std::byte> got = to.values();
  const auto byte_at = [&](std::int64_t row, std::int64_t at) {
    const bool inside = row < count && at < summed;
    return inside ? static_cast<std::byte>(values[static_cast<std::size_t>(row * stride + at)])
                  : std::byte{0};
  };
  std::vector<std::byte> wanted(got.size());
  for (int tile = 0; tile < 6; ++tile) {
    const int block = tile / 3;
    const bool is_left = tile % 3 == 0;
    const int first = kRows * (is_left ? block : tile % 3 - 1);
    for (int i = 0; i < kTileBytes; ++i) {
      const int row = i / kDepth, at = i % kDepth;
      const int chunk = is_left ? LeftLayout::chunk_offset(row, at / kChunk)
                                : RightLayout::chunk_offset(row, at / kChunk);
      wanted[static_cast<std::size_t>(tile * kTileBytes + chunk + at % kChunk)] =
          byte_at(first + row, place + at);
    }
  }
  EXPECT_EQ(got, wanted) << count << " x " << summed << " from " << place;
}

TEST(TensorCopy, TilesLieAsProductsReadThem) {
  on_every_kernel_run([] { expect_tiles(256, 256, 128); });
}

TEST(TensorCopy, WhatIsBeyondATensorIsZero) {
  on_every_kernel_run([] {
    expect_tiles(160, 230, 128);  // rows end in the second block, places in the box
    expect_tiles(32, 16, 0);
    expect_tiles(96, 128, 128);  // nothing is inside
  });
}

}  // namespace
}  // namespace quest
