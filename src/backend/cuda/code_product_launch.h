// The launch of code_product_kernel: which factors it takes, and the shape of its blocks.
#pragma once

#include "backend/cuda/code_product.cuh"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/products.h"

namespace quest::cuda {

/// Whether each row begins at a multiple of `bytes`.
inline bool rows_begin_at(const Tensor& tensor, std::size_t bytes) {
  const std::size_t stride = static_cast<std::size_t>(tensor.row_stride) * size_bytes(tensor.dtype);
  return reinterpret_cast<std::uintptr_t>(tensor.data) % bytes == 0 &&
         (tensor.rows() <= 1 || stride % bytes == 0);
}

/// Codes i8 as a factor; rows_begin_at(codes, kChunk). A single row's stride is of no meaning, and
/// may be no multiple of a chunk, to which all addresses keep.
template <typename Factor>
Factor code_factor(const Tensor& codes, std::int64_t count) {
  return {data_of<std::int8_t>(codes), codes.rows() <= 1 ? 0 : codes.row_stride, count};
}

template <typename Shape, typename Left, typename Right, typename Write>
void launch_code_product(const char* name, cudaStream_t stream, const Left& left,
                         const Right& right, const Write& write, const CodeProductSize& size) {
  using Tiles = CodeProductTiles<Shape, Left, Right>;
  const dim3 grid(blocks_of(size.rows, Shape::kRows) * blocks_of(size.columns, Shape::kColumns));
  launch(Launch{name, stream, grid, Shape::kThreads, Tiles::kSharedBytes},
         code_product_kernel<Shape, Left, Right, Write>, left, right, write, size);
}

/// Outputs `out` of a product of codes: write of the sums, on a device of so many multiprocessors.
/// All shapes give the same bits. Large blocks read shared memory least, but a multiprocessor has
/// one of them: they are taken where there are two for each.
template <typename Left, typename Right, typename Write>
void code_product(const char* name, cudaStream_t stream, int multiprocessors, const Left& left,
                  const Right& right, const Write& write, const Tensor& out, std::int64_t summed) {
  const CodeProductSize size{out.rows(), out.cols(), summed, rows_begin_at(out, 16)};
  const auto blocks = [&](std::int64_t rows, std::int64_t columns) {
    return std::int64_t{blocks_of(size.rows, rows)} * blocks_of(size.columns, columns);
  };
  using Large = LargeCodeProduct;
  using Middle = MiddleCodeProduct;
  using Small = SmallCodeProduct;
  if (size.rows > Small::kRows && blocks(Large::kRows, Large::kColumns) >= 2 * multiprocessors) {
    launch_code_product<Large>(name, stream, left, right, write, size);
  } else if (size.rows > Small::kRows &&
             blocks(Middle::kRows, Middle::kColumns) >= multiprocessors) {
    launch_code_product<Middle>(name, stream, left, right, write, size);
  } else {
    launch_code_product<Small>(name, stream, left, right, write, size);
  }
}

}  // namespace quest::cuda
