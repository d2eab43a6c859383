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

// take(d_y's rows by type, whether its pairs of columns may be read at once, and those of floats
// that begin at `beside`).
template <typename Take>
void with_gradient(const Tensor& d_y, const float* beside, const Take& take) {
  const bool pairs = d_y.cols() % 2 == 0 && d_y.dtype == DType::kBF16 &&
                     cuda::rows_begin_at(d_y, 4) &&
                     reinterpret_cast<std::uintptr_t>(beside) % 8 == 0;
  cuda::with_type(cuda::rows_of(d_y), [&](const auto& rows) {
    // f32 is for tests and comparisons: one form is enough.
    if constexpr (sizeof(*rows.data) == 2) {
      if (pairs) return take(rows, std::bool_constant<true>());
    }
    take(rows, std::bool_constant<false>());
  });
}

// g and scales of the rows of d_y.
void round_rows(Launch how, const Tensor& d_y, const float* steps, cuda::RoundedOut out,
                float* scales, const RoundingKey& key) {
  const int columns = static_cast<int>(d_y.cols());
  how.grid = dim3(static_cast<unsigned>(d_y.rows()));
  how.threads = cuda::kWarp * blocks_of(columns, 2 * cuda::kRowParts * cuda::kGroupColumns);
  with_gradient(d_y, steps,
                [&]<bool kPairs, typename Rows>(const Rows& rows, std::bool_constant<kPairs>) {
                  using T = std::remove_pointer_t<decltype(rows.data)>;
                  launch(how, cuda::round_rows_kernel<kPairs, T>, rows, steps, out, scales, columns,
                         words_of(key));
                });
}

// Lines of the columns of d_y.
struct ColumnLines {
  float *scales, *inverses;
};
ColumnLines column_lines(const char* name, cudaStream_t stream, cuda::Workspace& workspace,
                         const Tensor& d_y, const float* steps) {
  const std::int64_t columns = d_y.cols();
  const unsigned strips = blocks_of(d_y.rows(), cuda::kStripRows);
  float* const scales =
      workspace.take<float>(cuda::Workspace::Slot::kLines, (2 + strips) * columns);
  float *const inverses = scales + columns, *const parts = inverses + columns;
  const auto find = [&]<int kCount, typename T>(std::integral_constant<int, kCount>,
                                                const cuda::TypedRows<T>& rows) {
    const unsigned column_blocks = blocks_of(columns, kCount * cuda::kWarp);
    launch(Launch{name, stream, dim3(strips * column_blocks), 256},
           cuda::column_largest_kernel<kCount, T>, rows, steps, parts, static_cast<int>(d_y.rows()),
           static_cast<int>(columns), column_blocks);
  };
  cuda::with_type(cuda::rows_of(d_y), [&](const auto& rows) {
    if constexpr (sizeof(*rows.data) == 2) {
      if (columns % 8 == 0 && cuda::rows_begin_at(d_y, 16)) {
        return find(std::integral_constant<int, 8>(), rows);
      }
    }
    find(std::integral_constant<int, 1>(), rows);
  });
  launch(Launch{name, stream, dim3(blocks_of(columns, cuda::kWarp)), 256},
         cuda::column_lines_kernel, parts, scales, inverses, static_cast<int>(strips),
         static_cast<int>(columns));
  return {scales, inverses};
}

// g of d_y, or g^T, with lines that are columns. d_y begins at row first_row.
template <bool kTransposed>
void round_columns(Launch how, const Tensor& d_y, const float* steps, const float* inverses,
                   cuda::RoundedOut out, std::int64_t first_row, const RoundingKey& key) {
  how.grid = dim3(blocks_of(d_y.rows(), cuda::kRoundedTileRows) *
                  blocks_of(d_y.cols(), cuda::kGroupColumns));
  with_gradient(d_y, inverses,
                [&]<bool kPairs, typename Rows>(const Rows& rows, std::bool_constant<kPairs>) {
                  using T = std::remove_pointer_t<decltype(rows.data)>;
                  launch(how, cuda::round_columns_kernel<kTransposed, kPairs, T>, rows, steps,
                         inverses, out, static_cast<unsigned>(first_row),
                         static_cast<int>(d_y.rows()), static_cast<int>(d_y.cols()), words_of(key));
                });
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
         static_cast<int>(summed), stride);
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
  float* const scales = workspace_.take<float>(Workspace::Slot::kLines, rows);
  auto* const g = workspace_.take<std::int8_t>(Workspace::Slot::kGradient, rows * stride);
  round_rows(on("round_rows", dim3(), 0), d_y, cuda::data_of<float>(w.steps), {g, stride}, scales,
             key);
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
  for (std::int64_t begin = 0; begin < d_y.rows(); begin += kRoundedRows) {
    const std::int64_t end = std::min(begin + kRoundedRows, d_y.rows()), rows = end - begin;
    const Tensor part = d_y.rows_slice(begin, end);
    const float* const steps = cuda::data_of<float>(x.steps) + begin;
    const auto [scales, inverses] = column_lines("column_lines", stream_, workspace_, part, steps);
    const Tensor codes = x.codes.rows_slice(begin, end);
    const cuda::WriteLines lines{cuda::rows_of(d_z), write == Write::kAdd || begin > 0, scales};
    if (suits_rows(device_, x)) {
      const std::int64_t stride = whole_chunks(rows);
      auto* const g = workspace_.take<std::int8_t>(Workspace::Slot::kGradient, columns * stride);
      round_columns<true>(on("round_columns", dim3(), 256), part, steps, inverses, {g, stride},
                          begin, key);
      cuda::code_product(
          "integer_matmul_grad_weight", stream_, device_, CodeRows{g, stride, columns},
          odd_rows(on("transpose_odd", dim3(), 256), workspace_, codes), lines, d_z, rows);
      continue;
    }
    const std::int64_t stride = whole_chunks(columns);
    auto* const g = workspace_.take<std::int8_t>(Workspace::Slot::kGradient, rows * stride);
    round_columns<false>(on("round_columns", dim3(), 256), part, steps, inverses, {g, stride},
                         begin, key);
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
