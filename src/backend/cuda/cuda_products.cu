// CudaBackend: dense products by cuBLASLt (or, where it has none, by our kernel), and products on
// codes by tensor cores (or, where rows are not aligned, by dot products of words).
#include "backend/cuda/code_product_launch.h"
#include "backend/cuda/widen_kernels.cuh"

namespace quest {

using cuda::FloatRows, cuda::ProductSize;

void CudaBackend::multiply(const char* name, Tensor out, const cuda::Factor& left,
                           const cuda::Factor& right, Write write) {
  cuda::require_device(out);
  cuda::require_device(left.tensor);
  cuda::require_device(right.tensor);
  const std::int64_t summed = left.rows_are_summed ? left.tensor.rows() : left.tensor.cols();
  if (out.numel() == 0) return;
  if (summed > 0 && products_.multiply(out, left, right, summed, write)) return;
  const ProductSize size{out.rows(), out.cols(), summed};
  const FloatRows l = cuda::rows_of(left.tensor), r = cuda::rows_of(right.tensor);
  const cuda::WriteSum sum{cuda::rows_of(out), write == Write::kAdd};
  using cuda::FloatsByColumn, cuda::FloatsByRow, cuda::Fma, cuda::tile_product;
  if (!left.rows_are_summed && !right.rows_are_summed) {
    tile_product<Fma>(name, stream_, FloatsByRow{l}, FloatsByRow{r}, sum, size);
  } else if (!left.rows_are_summed) {
    tile_product<Fma>(name, stream_, FloatsByRow{l}, FloatsByColumn{r}, sum, size);
  } else {
    tile_product<Fma>(name, stream_, FloatsByColumn{l}, FloatsByColumn{r}, sum, size);
  }
}

void CudaBackend::matmul(Tensor y, Tensor x, Tensor w, Write write) {
  multiply("matmul", y, {x, false}, {w, false}, write);
}
void CudaBackend::stored_matmul(Tensor y, Tensor x, Tensor w, Write write) {
  multiply("stored_matmul", y, {x, false}, {w, false}, write);
}
void CudaBackend::matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) {
  multiply("matmul_grad_input", d_x, {d_y, false}, {w, true}, write);
}
void CudaBackend::matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) {
  multiply("matmul_grad_weight", d_w, {d_y, true}, {x, true}, write);
}

void CudaBackend::quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                                   Write write) {
  const std::int64_t columns = x.codes.cols();
  if (columns > 32768) fail("CUDA: quantized_matmul: {} values are summed, at most 32768", columns);
  const cuda::WriteQuantized write_sum =
      cuda::quantized_output(y, x, w.steps, w.code_sums, columns, write);
  using cuda::code_factor, cuda::CodeRows, cuda::rows_begin_at;
  if (rows_begin_at(x.codes, cuda::kChunk) && rows_begin_at(w.codes, cuda::kChunk)) {
    cuda::code_product("quantized_matmul", stream_, device_,
                       code_factor<CodeRows>(x.codes, y.rows()),
                       code_factor<CodeRows>(w.codes, y.cols()), write_sum, y, columns);
    return;
  }
  cuda::tile_product<cuda::DotWords>("quantized_matmul", stream_, cuda::words_of(x.codes),
                                     cuda::words_of(w.codes), write_sum,
                                     {y.rows(), y.cols(), (columns + 3) / 4});
}

Tensor CudaBackend::widened_codes(const QuantizedRows& rows, DType type) {
  const Tensor codes = rows.codes;
  const std::int64_t columns = codes.cols();
  const std::int64_t bytes = codes.numel() * static_cast<std::int64_t>(size_bytes(type));
  const Tensor wide(workspace_.take<std::byte>(cuda::Workspace::Slot::kOperand, bytes),
                    {codes.rows(), columns}, type, Place::kCuda);
  const auto widen = [&]<int kCount>(std::integral_constant<int, kCount>, const auto& out) {
    const unsigned column_blocks = blocks_of(columns, kCount * cuda::kWidenThreads);
    const dim3 grid(column_blocks * blocks_of(codes.rows(), cuda::kWidenedRows));
    launch(on("widen_codes", grid, cuda::kWidenThreads),
           cuda::widen_codes_kernel<kCount, std::remove_pointer_t<decltype(out.data)>>,
           cuda::TypedRows<const std::int8_t>{cuda::data_of<std::int8_t>(codes), codes.row_stride},
           cuda::data_of<float>(rows.steps), out, static_cast<unsigned>(codes.rows()),
           static_cast<unsigned>(columns), column_blocks);
  };
  cuda::with_type(cuda::rows_of(wide), [&](const auto& out) {
    if (columns % cuda::kWidenedCodes == 0 && cuda::rows_begin_at(codes, cuda::kWidenedCodes)) {
      widen(std::integral_constant<int, cuda::kWidenedCodes>(), out);
    } else {
      widen(std::integral_constant<int, 1>(), out);
    }
  });
  return wide;
}

// The quantized value is rounded to the type of d_y, as the CPU does, so that d_y is read where it
// lies.
void CudaBackend::quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                              Write write) {
  multiply("quantized_matmul_grad_input", d_z, {d_y, false}, {widened_codes(w, d_y.dtype), true},
           write);
}

void CudaBackend::quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                               Write write) {
  multiply("quantized_matmul_grad_weight", d_z, {d_y, true}, {widened_codes(x, d_y.dtype), true},
           write);
}

}  // namespace quest
