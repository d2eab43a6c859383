// CudaBackend: gradients of the quantized product on integers with stochastic rounding.
#include "backend/cuda/code_product_launch.h"
#include "backend/cuda/rounding_kernels.cuh"

namespace quest {
namespace {

// Rounded gradients lie in rows of whole chunks.
std::int64_t whole_chunks(std::int64_t columns) {
  return (columns + cuda::kChunk - 1) / cuda::kChunk * cuda::kChunk;
}

}  // namespace

using cuda::CodeColumns, cuda::CodeRows, cuda::rows_begin_at, cuda::Workspace;

void CudaBackend::integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                            const RoundingKey& key, Write write) {
  const std::int64_t rows = d_y.rows(), columns = d_y.cols(), stride = whole_chunks(columns);
  if (columns > 32768) {
    fail("CUDA: integer_matmul_grad_input: {} values are summed, at most 32768", columns);
  }
  const cuda::FoldedGradient folded{cuda::rows_of(d_y), cuda::data_of<float>(w.steps), false};
  float* const scales = workspace_.take<float>(Workspace::Slot::kLines, 2 * rows);
  float* const to_fixed = scales + rows;
  auto* const g = workspace_.take<std::int8_t>(Workspace::Slot::kGradient, rows * stride);
  const dim3 row_blocks(static_cast<unsigned>(rows));
  launch(on("row_lines", row_blocks, 256), cuda::row_lines_kernel, folded, scales, to_fixed,
         columns);
  launch(on("round_gradients", row_blocks, 256), cuda::round_gradients_kernel, folded,
         cuda::RoundedOut{g, stride, to_fixed, true}, std::int64_t{0}, columns, key.words[0],
         key.words[1]);
  const bool add = write == Write::kAdd;
  if (rows_begin_at(w.codes, cuda::kChunk)) {
    cuda::code_product("integer_matmul_grad_input", stream_, device_, CodeRows{g, stride, rows},
                       cuda::code_factor<CodeColumns>(w.codes, d_z.cols()),
                       cuda::WriteOddLines{cuda::rows_of(d_z), add, scales}, d_z, columns);
    return;
  }
  cuda::tile_product<cuda::MultiplyIntegers>(
      "integer_matmul_grad_input", stream_, cuda::RoundedGradients<true>{g, stride},
      cuda::OddCodesByColumn{cuda::data_of<std::int8_t>(w.codes), w.codes.row_stride},
      cuda::WriteLines{cuda::rows_of(d_z), add, scales}, {rows, d_z.cols(), columns});
}

void CudaBackend::integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                             const RoundingKey& key, Write write) {
  const std::int64_t columns = d_y.cols(), stride = whole_chunks(columns);
  const cuda::FoldedGradient folded{cuda::rows_of(d_y), cuda::data_of<float>(x.steps), true};
  for (std::int64_t begin = 0; begin < d_y.rows(); begin += kRoundedRows) {
    const std::int64_t end = std::min(begin + kRoundedRows, d_y.rows());
    float* const scales = workspace_.take<float>(Workspace::Slot::kLines, 2 * columns);
    float* const to_fixed = scales + columns;
    auto* const g =
        workspace_.take<std::int8_t>(Workspace::Slot::kGradient, (end - begin) * stride);
    launch(on("column_lines", dim3(blocks_of(columns, cuda::kWarp)), 256),
           cuda::column_lines_kernel, folded, scales, to_fixed, begin, end, columns);
    launch(on("round_gradients", dim3(static_cast<unsigned>(end - begin)), 256),
           cuda::round_gradients_kernel, folded, cuda::RoundedOut{g, stride, to_fixed, false},
           begin, columns, key.words[0], key.words[1]);
    const Tensor codes = x.codes.rows_slice(begin, end);
    const bool add = write == Write::kAdd || begin > 0;
    if (rows_begin_at(codes, cuda::kChunk)) {
      cuda::code_product("integer_matmul_grad_weight", stream_, device_,
                         CodeColumns{g, stride, columns},
                         cuda::code_factor<CodeColumns>(codes, d_z.cols()),
                         cuda::WriteOddLines{cuda::rows_of(d_z), add, scales}, d_z, end - begin);
      continue;
    }
    cuda::tile_product<cuda::MultiplyIntegers>(
        "integer_matmul_grad_weight", stream_, cuda::RoundedGradients<false>{g, stride},
        cuda::OddCodesByColumn{cuda::data_of<std::int8_t>(codes), codes.row_stride},
        cuda::WriteLines{cuda::rows_of(d_z), add, scales}, {columns, d_z.cols(), end - begin});
  }
}

}  // namespace quest
