// The launch of products of codes: which factors they take, with which instructions, and the shape
// of their blocks.
#pragma once

#include "backend/cuda/code_product.cuh"
#include "backend/cuda/cuda_backend.h"
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
  const dim3 grid(blocks_of(size.rows, Shape::kRows) * blocks_of(size.columns, Shape::kColumns));
  const Launch how{name, stream, grid, Shape::kThreads,
                   CodePipeline<Shape, Left, Right>::kSharedBytes};
  if constexpr (Shape::kUsesWarpgroups) {
    launch(how, warpgroup_product_kernel<Shape, Left, Right, Write>, left, right, write, size);
  } else {
    launch(how, code_product_kernel<Shape, Left, Right, Write>, left, right, write, size);
  }
}

/// The shapes of blocks: three of CodeProductShape, two of WarpgroupProductShape.
enum class CodeBlocks { kSmall, kMiddle, kLarge, kNarrowWarpgroups, kWideWarpgroups };

/// Whether warpgroups take a product: codes by rows, whose sums are all that is asked for.
template <typename Left, typename Right, typename Write>
inline constexpr bool kSuitsWarpgroups =
    !Write::kNeedsLeftSums && !std::is_same_v<Left, CodeColumns> &&
    !std::is_same_v<Right, CodeColumns>;

/// The shape of blocks for so many outputs. Large blocks read shared memory least, but a
/// multiprocessor has one of them: they are taken where there are two for each. Where warpgroups
/// may multiply, the shape that should end first: rounds of blocks times what one of them takes.
inline CodeBlocks choose_code_blocks(const ProductDevice& device, bool suits_warpgroups,
                                     const CodeProductSize& size) {
  const auto blocks = [&]<typename Shape>(const Shape&) {
    return std::int64_t{blocks_of(size.rows, Shape::kRows)} *
           blocks_of(size.columns, Shape::kColumns);
  };
  const std::int64_t multiprocessors = device.multiprocessors;
  if (device.has_warpgroups && suits_warpgroups) {
    const auto time = [&]<typename Shape>(const Shape& shape, double rate) {
      const std::int64_t rounds = (blocks(shape) + multiprocessors - 1) / multiprocessors;
      return static_cast<double>(rounds * Shape::kRows * Shape::kColumns) / rate;
    };
    // Shares of the tensor cores' peak that each should reach: reckoned, not measured.
    const double wide = time(WideWarpgroupProduct(), 0.65);
    const double narrow = time(NarrowWarpgroupProduct(), 0.55);
    const double small = time(SmallCodeProduct(), 0.3);
    if (small < wide && small < narrow) return CodeBlocks::kSmall;
    return wide <= narrow ? CodeBlocks::kWideWarpgroups : CodeBlocks::kNarrowWarpgroups;
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
  constexpr bool kSuits = kSuitsWarpgroups<Left, Right, Write>;
  const auto product = [&]<typename Shape>(const Shape&) {
    launch_code_product<Shape>(name, stream, left, right, write, size);
  };
  const CodeBlocks blocks = choose_code_blocks(device, kSuits, size);
  if constexpr (kSuits) {
    if (blocks == CodeBlocks::kWideWarpgroups) return product(WideWarpgroupProduct());
    if (blocks == CodeBlocks::kNarrowWarpgroups) return product(NarrowWarpgroupProduct());
  }
  if (blocks == CodeBlocks::kLarge) return product(LargeCodeProduct());
  if (blocks == CodeBlocks::kMiddle) return product(MiddleCodeProduct());
  product(SmallCodeProduct());
}

}  // namespace quest::cuda
