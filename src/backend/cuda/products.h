// What the files of products share.
#pragma once

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/tile_product.cuh"

namespace quest::cuda {

/// Sizes of a product: outputs and the length of the sum.
struct ProductSize {
  std::int64_t rows, columns, summed;
};

/// Codes i8 [R, K] by words.
inline CodeWords words_of(const Tensor& codes) {
  const auto* const data = data_of<std::int8_t>(codes);
  const bool aligned = codes.cols() % 4 == 0 && codes.row_stride % 4 == 0 &&
                       reinterpret_cast<std::uintptr_t>(data) % 4 == 0;
  return {data, codes.row_stride, codes.cols(), aligned};
}

/// What becomes of the sums of y (= or +=) x w^T on codes of K = `columns`; w has `steps` and sums
/// of codes.
inline WriteQuantized quantized_output(const Tensor& y, const QuantizedRows& x, const Tensor& steps,
                                       const Tensor& code_sums, std::int64_t columns, Write write) {
  return {rows_of(y),
          write == Write::kAdd,
          data_of<float>(x.steps),
          data_of<float>(steps),
          data_of<std::int32_t>(x.code_sums),
          data_of<std::int32_t>(code_sums),
          columns};
}

/// Launches tile_product_kernel.
template <typename Multiply, typename Left, typename Right, typename Write>
void tile_product(const char* name, cudaStream_t stream, const Left& left, const Right& right,
                  const Write& write, const ProductSize& size) {
  const dim3 grid(blocks_of(size.columns, kTile) * blocks_of(size.rows, kTile));
  launch(Launch{name, stream, grid, kTileThreads},
         tile_product_kernel<Multiply, Left, Right, Write>, left, right, write, size.rows,
         size.columns, size.summed);
}

}  // namespace quest::cuda
