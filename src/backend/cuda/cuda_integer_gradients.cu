// CudaBackend: gradients of the quantized product on integers with stochastic rounding.
#include "backend/cuda/code_product_launch.h"
#include "backend/cuda/rounding_kernels.cuh"
#include "backend/cuda/transpose_kernels.cuh"

namespace quest {
namespace {

// Rounded gradients lie in rows of whole chunks.
std::int64_t whole_chunks(std::int64_t columns) {
  return (columns + cuda::kChunk - 1) / cuda::kChunk * cuda::kChunk;
}

const unsigned* words_of(const RoundingKey& key) {
  return static_cast<const unsigned*>(cuda::device_twin(key.on_device));
}

// Whether these codes become a factor by rows: where warpgroups multiply, which take no other, and
// 2 q + 1 has eight bits.
bool suits_rows(const cuda::ProductDevice& device, const QuantizedRows& rows) {
  return device.has_warpgroups && rows.bits < 8 && cuda::rows_begin_at(rows.codes, cuda::kChunk);
}

// 2 q + 1 of codes [summed, count] as a factor by rows, in the workspace.
cuda::CodeRows odd_rows(Launch how, cuda::Workspace& workspace, const Tensor& codes) {
  const std::int64_t summed = codes.rows(), count = codes.cols(), stride = whole_chunks(summed);
  auto* const out = workspace.take<std::int8_t>(cuda::Workspace::Slot::kOperand, count * stride);
  how.grid =
      dim3(blocks_of(count, cuda::kTransposedLines) * blocks_of(summed, cuda::kTransposedLines));
  launch(how, cuda::transpose_odd_kernel, cuda::code_factor<cuda::CodeColumns>(codes, count), out,
         summed, stride);
  return {out, stride, count};
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
         cuda::RoundedOut{g, stride, to_fixed, true}, std::int64_t{0}, columns, words_of(key));
  const bool add = write == Write::kAdd;
  if (suits_rows(device_, w)) {
    cuda::code_product("integer_matmul_grad_input", stream_, device_, CodeRows{g, stride, rows},
                       odd_rows(on("transpose_odd", dim3(), 256), workspace_, w.codes),
                       cuda::WriteLines{cuda::rows_of(d_z), add, scales}, d_z, columns);
    return;
  }
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
  const std::int64_t columns = d_y.cols();
  const cuda::FoldedGradient folded{cuda::rows_of(d_y), cuda::data_of<float>(x.steps), true};
  for (std::int64_t begin = 0; begin < d_y.rows(); begin += kRoundedRows) {
    const std::int64_t end = std::min(begin + kRoundedRows, d_y.rows()), rows = end - begin;
    float* const scales = workspace_.take<float>(Workspace::Slot::kLines, 2 * columns);
    float* const to_fixed = scales + columns;
    launch(on("column_lines", dim3(blocks_of(columns, cuda::kWarp)), 256),
           cuda::column_lines_kernel, folded, scales, to_fixed, begin, end, columns);
    const Tensor codes = x.codes.rows_slice(begin, end);
    const cuda::WriteLines lines{cuda::rows_of(d_z), write == Write::kAdd || begin > 0, scales};
    if (suits_rows(device_, x)) {
      const std::int64_t stride = whole_chunks(rows);
      auto* const g = workspace_.take<std::int8_t>(Workspace::Slot::kGradient, columns * stride);
      launch(on("round_transposed",
                dim3(blocks_of(rows, cuda::kRoundedTileRows) *
                     blocks_of(columns, cuda::kRoundedTileColumns)),
                256),
             cuda::round_transposed_kernel, folded, cuda::RoundedOut{g, stride, to_fixed, false},
             begin, rows, columns, words_of(key));
      cuda::code_product(
          "integer_matmul_grad_weight", stream_, device_, CodeRows{g, stride, columns},
          odd_rows(on("transpose_odd", dim3(), 256), workspace_, codes), lines, d_z, rows);
      continue;
    }
    const std::int64_t stride = whole_chunks(columns);
    auto* const g = workspace_.take<std::int8_t>(Workspace::Slot::kGradient, rows * stride);
    launch(on("round_gradients", dim3(static_cast<unsigned>(rows)), 256),
           cuda::round_gradients_kernel, folded, cuda::RoundedOut{g, stride, to_fixed, false},
           begin, columns, words_of(key));
    if (rows_begin_at(codes, cuda::kChunk)) {
      cuda::code_product("integer_matmul_grad_weight", stream_, device_,
                         CodeColumns{g, stride, columns},
                         cuda::code_factor<CodeColumns>(codes, d_z.cols()),
                         cuda::WriteOddLines{lines.out, lines.add, scales}, d_z, rows);
      continue;
    }
    cuda::tile_product<cuda::MultiplyIntegers>(
        "integer_matmul_grad_weight", stream_, cuda::RoundedGradients<false>{g, stride},
        cuda::OddCodesByColumn{cuda::data_of<std::int8_t>(codes), codes.row_stride}, lines,
        {columns, d_z.cols(), rows});
  }
}

}  // namespace quest
