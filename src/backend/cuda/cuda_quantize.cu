// CudaBackend: quantization, its gradient and its error.
#include "backend/cuda/quantize_launch.h"

namespace quest {
namespace {

// sums [3] += parts [rows][3], row by row.
__global__ void add_parts_kernel(double* sums, const double* parts, std::int64_t rows) {
  cuda::follow_last_kernel();
  if (threadIdx.x >= 3) return;
  double sum = 0;
  for (std::int64_t r = 0; r < rows; ++r) sum += parts[3 * r + threadIdx.x];
  sums[threadIdx.x] += sum;
}

}  // namespace

using cuda::block_a_row, cuda::quantize, cuda::rotate, cuda::rotation, cuda::RowRule, cuda::rule_of;

void CudaBackend::quantize_rows(const QuantizedRows& rows, Tensor x,
                                const RowQuantizer& quantizer) {
  quantize(on("quantize_rows", block_a_row(x.rows()), 0), cuda::PlainSource{cuda::rows_of(x)}, rows,
           rule_of(quantizer, x.cols()));
}

void CudaBackend::rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x,
                                   Tensor weight, float epsilon, const RowQuantizer& quantizer) {
  const cuda::NormSource source{
      cuda::rows_of(x), cuda::data_of<float>(weight), cuda::data_of<float>(rstd), epsilon,
      x.cols(),         y.dtype == DType::kBF16};
  quantize(on("rmsnorm_quantize", block_a_row(x.rows()), cuda::kNormThreads), source, rows,
           rule_of(quantizer, x.cols()));
}

void CudaBackend::swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                                  const RowQuantizer& quantizer) {
  const cuda::SwigluSource source{cuda::rows_of(gate), cuda::rows_of(up), h.dtype == DType::kBF16};
  quantize(on("swiglu_quantize", block_a_row(gate.rows()), 0), source, rows,
           rule_of(quantizer, gate.cols()));
}

void CudaBackend::quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                                         Write write) {
  const cuda::MaskedSource source{cuda::rows_of(d_z), cuda::data_of<std::uint8_t>(mask),
                                  mask.row_stride};
  rotate(on("quantize_rows_backward", block_a_row(d_z.rows()), 0), source, d_x,
         rotation(d_z.cols(), block), write);
}

void CudaBackend::dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) {
  const cuda::CodesSource source{cuda::data_of<std::int8_t>(rows.codes),
                                 cuda::data_of<float>(rows.steps), rows.codes.row_stride};
  rotate(on("dequantize_rows", block_a_row(out.rows()), 0), source, out,
         rotation(out.cols(), block), Write::kSet);
}

void CudaBackend::quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                                     const RowQuantizer& quantizer) {
  const RowRule rule = rule_of(quantizer, x.cols());
  const cuda::PlainSource source{cuda::rows_of(x)};
  double* const parts = workspace_.take<double>(cuda::Workspace::Slot::kSums, 3 * x.rows());
  cuda::with_vectors(rule, [&](auto vectors) {
    launch(on("quantization_error", block_a_row(x.rows()), cuda::threads_of(rule)),
           cuda::quantization_error_kernel<vectors(), cuda::PlainSource>, source,
           cuda::codes_of(rows), rule, cuda::block_scale(rule.block), parts);
  });
  launch(on("add_parts", dim3(1), 32), add_parts_kernel, cuda::data_of<double>(sums), parts,
         x.rows());
}

}  // namespace quest
