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

// Whether codes and mask may be written by words.
bool takes_words(const QuantizedRows& rows) {
  return cuda::rows_begin_at(rows.codes, 8) && (!rows.mask || cuda::rows_begin_at(rows.mask, 8));
}

// cuda::quantize of a source of vectors; false, and nothing done, where tensors do not suit it.
bool quantize_vectors(const Launch& how, const RowSource& source, const QuantizedRows& rows,
                      const cuda::RowRule& rule) {
  return takes_words(rows) && cuda::with_vectors(source, rule, [&](const auto& vectors) {
           cuda::quantize(how, vectors, rows, rule);
           return true;
         });
}

}  // namespace

using cuda::block_a_row, cuda::data_of, cuda::quantize, cuda::rotate, cuda::rotation, cuda::rows_of,
    cuda::RowRule, cuda::rule_of;

void CudaBackend::quantize_rows(const QuantizedRows& rows, Tensor x,
                                const RowQuantizer& quantizer) {
  const Launch how = on("quantize_rows", block_a_row(x.rows()), 0);
  const RowRule rule = rule_of(quantizer, x.cols());
  if (quantize_vectors(how, {x}, rows, rule)) return;
  quantize(how, cuda::PlainSource{rows_of(x)}, rows, rule);
}

void CudaBackend::rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x,
                                   Tensor weight, float epsilon, const RowQuantizer& quantizer) {
  const Launch how = on("rmsnorm_quantize", block_a_row(x.rows()), 0);
  const RowRule rule = rule_of(quantizer, x.cols());
  if (quantize_vectors(how, {y, RowSource::Norm{rstd, x, weight, epsilon}}, rows, rule)) return;
  const bool bf16 = y.dtype == DType::kBF16;
  quantize(how,
           cuda::NormSource{rows_of(x), data_of<float>(weight), data_of<float>(rstd), epsilon,
                            x.cols(), bf16},
           rows, rule);
}

void CudaBackend::swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                                  const RowQuantizer& quantizer) {
  const Launch how = on("swiglu_quantize", block_a_row(gate.rows()), 0);
  const RowRule rule = rule_of(quantizer, gate.cols());
  if (quantize_vectors(how, {h, RowSource::Swiglu{gate, up}}, rows, rule)) return;
  const bool bf16 = h.dtype == DType::kBF16;
  quantize(how, cuda::SwigluSource{rows_of(gate), rows_of(up), bf16}, rows, rule);
}

void CudaBackend::quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                                         Write write) {
  const Launch how = on("quantize_rows_backward", block_a_row(d_z.rows()), 0);
  const RowRule rule = rotation(d_z.cols(), block);
  const auto* const bits = data_of<std::uint8_t>(mask);
  if (!cuda::suits_vectors(rule, d_z, d_x) || (mask && !cuda::rows_begin_at(mask, 16))) {
    return rotate(how, cuda::MaskedSource{rows_of(d_z), bits, mask.row_stride}, d_x, rule, write);
  }
  cuda::with_type(rows_of(d_z), [&]<typename T>(const cuda::TypedRows<T>& values) {
    rotate(how, cuda::MaskedVectors<T>{values, bits, mask.row_stride}, d_x, rule, write);
  });
}

void CudaBackend::dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) {
  const Launch how = on("dequantize_rows", block_a_row(out.rows()), 0);
  const RowRule rule = rotation(out.cols(), block);
  const auto* const codes = data_of<std::int8_t>(rows.codes);
  const auto* const steps = data_of<float>(rows.steps);
  const std::int64_t stride = rows.codes.row_stride;
  if (cuda::suits_vectors(rule, out) && cuda::rows_begin_at(rows.codes, 8)) {
    return rotate(how, cuda::CodesVectors{codes, steps, stride}, out, rule, Write::kSet);
  }
  rotate(how, cuda::CodesSource{codes, steps, stride}, out, rule, Write::kSet);
}

void CudaBackend::quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                                     const RowQuantizer& quantizer) {
  const RowRule rule = rule_of(quantizer, x.cols());
  const cuda::PlainSource source{rows_of(x)};
  double* const parts = workspace_.take<double>(cuda::Workspace::Slot::kSums, 3 * x.rows());
  launch(on("quantization_error", block_a_row(x.rows()), cuda::threads_of<cuda::PlainSource>(rule)),
         cuda::quantization_error_kernel<cuda::PlainSource>, source, cuda::codes_of(rows), rule,
         cuda::block_scale(rule.block), parts);
  launch(on("add_parts", dim3(1), 32), add_parts_kernel, data_of<double>(sums), parts, x.rows());
}

}  // namespace quest
