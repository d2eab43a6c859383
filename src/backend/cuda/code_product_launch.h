// The launch of products of codes: which factors they take, with which instructions, and the shape
// of their blocks.
#pragma once

#include <algorithm>
#include <optional>

#include "backend/cuda/code_product.cuh"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/persistent_product.cuh"
#include "backend/cuda/products.h"
#include "backend/cuda/warpgroup_product.cuh"

namespace quest::cuda {

/// Codes i8 as a factor; rows_begin_at(codes, kChunk). A single row's stride is of no meaning, and
/// may be no multiple of a chunk, to which all addresses keep.
template <typename Factor>
Factor code_factor(const Tensor& codes, std::int64_t count) {
  return {data_of<std::int8_t>(codes), codes.rows() <= 1 ? 0 : codes.row_stride, count};
}

/// Shape: a CodeProductShape, or where the device has warpgroups a WarpgroupProductShape.
template <typename Shape, typename Left, typename Right, typename Write>
void launch_code_product(const char* name, cudaStream_t stream, const Left& left,
                         const Right& right, const Write& write, const CodeProductSize& size) {
  const Launch how{name, stream, dim3(count_tiles<Shape>(size)), Shape::kThreads,
                   CodePipeline<Shape, Left, Right>::kSharedBytes};
  if constexpr (Shape::kUsesWarpgroups) {
    launch(how, warpgroup_product_kernel<Shape, Left, Right, Write>, left, right, write, size);
  } else {
    launch(how, code_product_kernel<Shape, Left, Right, Write>, left, right, write, size);
  }
}

/// The map of a left factor: boxes of a block's rows.
inline std::optional<CUtensorMap> left_map(TensorMapEncoder encode, const CodeRows& rows,
                                           std::int64_t summed) {
  const MapDimension dimensions[] = {
      {summed, 1, PersistentProduct::kDepth},
      {rows.count, std::max(rows.stride, (summed + kChunk - 1) / kChunk * kChunk),
       PersistentProduct::kBlockRows}};
  return tensor_map(encode, rows.codes, dimensions);
}
/// The map of a right factor whose rows come by 32: boxes of half a tile's columns, with rows in
/// the order of SwizzledLayout<false>: of 32 rows, row 8 t + 2 j + e comes to line 8 j + 2 t + e.
inline std::optional<CUtensorMap> right_map(TensorMapEncoder encode, const CodeRows& rows,
                                            std::int64_t summed) {
  constexpr int kGroups = PersistentProduct::kColumns / 2 / 32;
  const MapDimension dimensions[] = {{summed, 1, PersistentProduct::kDepth},
                                     {2, rows.stride, 2},
                                     {4, 8 * rows.stride, 4},
                                     {4, 2 * rows.stride, 4},
                                     {rows.count / 32, 32 * rows.stride, kGroups}};
  return tensor_map(encode, rows.codes, dimensions);
}

/// Whether persistent blocks take a product: maps of its factors can be had.
inline bool suits_maps(const ProductDevice& device, const CodeProductSize& size) {
  return device.encode_map != nullptr && size.columns % 32 == 0 && size.summed > 0;
}

/// By persistent blocks, where suits_maps. False, and nothing done, where the driver makes no maps.
template <typename Write>
bool launch_persistent_product(const char* name, cudaStream_t stream, const ProductDevice& device,
                               const CodeRows& left, const CodeRows& right, const Write& write,
                               const CodeProductSize& size) {
  using Shape = PersistentProduct;
  const auto left_tiles = left_map(device.encode_map, left, size.summed);
  const auto right_tiles = right_map(device.encode_map, right, size.summed);
  if (!left_tiles || !right_tiles) return false;
  const unsigned most = std::max(1u, static_cast<unsigned>(device.multiprocessors) / Shape::kPair);
  const unsigned pairs = std::min(count_tiles<Shape>(size), most);
  launch({name, stream, dim3(pairs * Shape::kPair), Shape::kThreads, Shape::kSharedBytes,
          Shape::kPair},
         persistent_product_kernel<Write>, *left_tiles, *right_tiles, write, size);
  return true;
}

/// The shapes of blocks: three of CodeProductShape, two of WarpgroupProductShape, persistent ones.
enum class CodeBlocks {
  kSmall,
  kMiddle,
  kLarge,
  kNarrowWarpgroups,
  kWideWarpgroups,
  kPersistent,
};

/// Whether warpgroups take a product: codes by rows, whose sums are all that is asked for.
template <typename Left, typename Right, typename Write>
inline constexpr bool kSuitsWarpgroups =
    !Write::kNeedsLeftSums && !std::is_same_v<Left, CodeColumns> &&
    !std::is_same_v<Right, CodeColumns>;
/// Whether persistent blocks do, where there are maps of its factors: codes as they are multiplied.
template <typename Left, typename Right, typename Write>
inline constexpr bool kSuitsPersistent = kSuitsWarpgroups<Left, Right, Write>&&
    std::is_same_v<Left, CodeRows>&& std::is_same_v<Right, CodeRows>;

/// What may multiply a pair of factors.
enum class CodeKernels { kTensorCores, kWarpgroups, kPersistent };

/// Which of them a device and a product of these sizes leave, of those which suit the factors.
template <typename Left, typename Right, typename Write>
CodeKernels suitable_kernels(const ProductDevice& device, const CodeProductSize& size) {
  if (!device.has_warpgroups || !kSuitsWarpgroups<Left, Right, Write>) {
    return CodeKernels::kTensorCores;
  }
  return kSuitsPersistent<Left, Right, Write> && suits_maps(device, size)
             ? CodeKernels::kPersistent
             : CodeKernels::kWarpgroups;
}

/// The shape of blocks for so many outputs. Large blocks read shared memory least, but a
/// multiprocessor has one of them: they are taken where there are two for each. Where warpgroups
/// may multiply, the shape that should end first: rounds of blocks times what one of them takes.
/// Persistent blocks take the place of wide ones.
inline CodeBlocks choose_code_blocks(int multiprocessors, CodeKernels kernels,
                                     const CodeProductSize& size) {
  const auto blocks = [&]<typename Shape>(const Shape&) {
    return std::int64_t{count_tiles<Shape>(size)};
  };
  if (kernels != CodeKernels::kTensorCores) {
    // Outputs of rounds in which `at_once` multiprocessors have one tile, over the share of the
    // tensor cores' peak that the shape should reach: reckoned, not measured.
    const auto time = [&]<typename Shape>(const Shape& shape, int at_once, double rate) {
      const std::int64_t tiles = std::max(multiprocessors / at_once, 1);
      const std::int64_t rounds = (blocks(shape) + tiles - 1) / tiles;
      return static_cast<double>(rounds * Shape::kRows * Shape::kColumns / at_once) / rate;
    };
    const bool persistent = kernels == CodeKernels::kPersistent;
    const double wide = persistent ? time(PersistentProduct(), PersistentProduct::kPair, 0.75)
                                   : time(WideWarpgroupProduct(), 1, 0.65);
    const double narrow = time(NarrowWarpgroupProduct(), 1, 0.55);
    const double small = time(SmallCodeProduct(), 1, 0.3);
    if (small < wide && small < narrow) return CodeBlocks::kSmall;
    if (narrow < wide) return CodeBlocks::kNarrowWarpgroups;
    return persistent ? CodeBlocks::kPersistent : CodeBlocks::kWideWarpgroups;
  }
  if (size.rows > SmallCodeProduct::kRows) {
    if (blocks(LargeCodeProduct()) >= 2 * multiprocessors) return CodeBlocks::kLarge;
    if (blocks(MiddleCodeProduct()) >= multiprocessors) return CodeBlocks::kMiddle;
  }
  return CodeBlocks::kSmall;
}

/// Outputs `out` of a product of codes: write of the sums. All shapes give the same bits.
template <typename Left, typename Right, typename Write>
void code_product(const char* name, cudaStream_t stream, const ProductDevice& device,
                  const Left& left, const Right& right, const Write& write, const Tensor& out,
                  std::int64_t summed) {
  const CodeProductSize size{out.rows(), out.cols(), summed, rows_begin_at(out, 16)};
  const auto product = [&]<typename Shape>(const Shape&) {
    launch_code_product<Shape>(name, stream, left, right, write, size);
  };
  CodeBlocks blocks = choose_code_blocks(device.multiprocessors,
                                         suitable_kernels<Left, Right, Write>(device, size), size);
  if constexpr (kSuitsPersistent<Left, Right, Write>) {
    if (blocks == CodeBlocks::kPersistent) {
      if (launch_persistent_product(name, stream, device, left, right, write, size)) return;
      blocks = CodeBlocks::kWideWarpgroups;
    }
  }
  if constexpr (kSuitsWarpgroups<Left, Right, Write>) {
    if (blocks == CodeBlocks::kWideWarpgroups) return product(WideWarpgroupProduct());
    if (blocks == CodeBlocks::kNarrowWarpgroups) return product(NarrowWarpgroupProduct());
  }
  if (blocks == CodeBlocks::kLarge) return product(LargeCodeProduct());
  if (blocks == CodeBlocks::kMiddle) return product(MiddleCodeProduct());
  product(SmallCodeProduct());
}

}  // namespace quest::cuda
