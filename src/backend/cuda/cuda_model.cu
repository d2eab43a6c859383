// CudaBackend: embedding, norm, rotary embedding, SwiGLU, cross-entropy.
#include "backend/cuda/model_kernels.cuh"
#include "backend/cuda/span_launch.h"

namespace quest {

using cuda::data_of;
using cuda::rows_of;

void CudaBackend::embedding(Tensor x, Tensor tokens, Tensor table) {
  for_each("embedding", x.rows(), x.cols(),
           cuda::Embedding{rows_of(x), rows_of(table), data_of<std::int32_t>(tokens)});
}

void CudaBackend::embedding_backward(Tensor d_table, Tensor d_x, Tensor tokens) {
  launch(on("embedding_backward", dim3(static_cast<unsigned>(d_x.rows())), 256),
         cuda::embedding_backward_kernel, data_of<float>(d_table), data_of<float>(d_x),
         data_of<std::int32_t>(tokens), d_x.rows(), d_x.cols());
}

void CudaBackend::rmsnorm(Tensor y, Tensor rstd, Tensor x, Tensor weight, float epsilon) {
  const cuda::NormSource source{rows_of(x), data_of<float>(weight), data_of<float>(rstd), epsilon,
                                x.cols(),   y.dtype == DType::kBF16};
  launch(on("rmsnorm", dim3(static_cast<unsigned>(x.rows())), cuda::kNormThreads),
         cuda::rmsnorm_kernel, rows_of(y), source);
}

void CudaBackend::rmsnorm_backward(Tensor d_x, Tensor rounded, Tensor d_weight, Tensor d_y,
                                   Tensor x, Tensor weight, Tensor rstd) {
  const cuda::NormGradient gradient{rows_of(d_y),         data_of<float>(x), data_of<float>(weight),
                                    data_of<float>(rstd), x.rows(),          x.cols()};
  const unsigned parts = blocks_of(x.rows(), cuda::kNormRows);
  const unsigned columns = blocks_of(x.cols(), 256);
  float* const sums =
      workspace_.take<float>(cuda::Workspace::Slot::kSums, std::int64_t{parts} * x.cols());
  launch(on("rmsnorm_backward", dim3(static_cast<unsigned>(x.rows())), 256),
         cuda::rmsnorm_backward_kernel, data_of<float>(d_x), data_of<BFloat16>(rounded), gradient);
  launch(on("norm_weight_parts", dim3(columns * parts), 256), cuda::norm_weight_parts_kernel, sums,
         gradient);
  launch(on("add_rows", dim3(columns), 256), cuda::add_rows_kernel, data_of<float>(d_weight),
         static_cast<const float*>(sums), std::int64_t{parts}, x.cols());
}

void CudaBackend::rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                       std::int64_t first_position, std::int64_t length, bool inverse) {
  const cuda::Rope turn{rows_of(x),
                        data_of<float>(cos),
                        data_of<float>(sin),
                        cos.cols(),
                        first_position,
                        length,
                        layout == RopeLayout::kInterleaved,
                        inverse};
  for_each("rope", x.rows(), x.cols() / 2, turn);
}

void CudaBackend::cached_rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                              const SequenceSpans& spans) {
  const cuda::Rope turn{rows_of(x),
                        data_of<float>(cos),
                        data_of<float>(sin),
                        cos.cols(),
                        0,
                        1,
                        layout == RopeLayout::kInterleaved,
                        false};
  const cuda::TileOrder order =
      cuda::plain_order(std::ssize(spans), cuda::narrow(cuda::longest(spans)));
  launch(cuda::with_blocks(on("cached_rope", dim3(), 0), order, 256, 0), cuda::cached_rope_kernel,
         turn, cuda::list_of(spans), order, x.cols() / 2);
}

void CudaBackend::swiglu(Tensor h, Tensor gate, Tensor up) {
  for_each("swiglu", h.rows(), h.cols(),
           cuda::Swiglu{rows_of(h), {rows_of(gate), rows_of(up), h.dtype == DType::kBF16}});
}

void CudaBackend::swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate, Tensor up) {
  for_each("swiglu_backward", d_h.rows(), d_h.cols(),
           cuda::SwigluGradient{rows_of(d_gate), rows_of(d_up), rows_of(d_h), rows_of(gate),
                                rows_of(up)});
}

void CudaBackend::cross_entropy(Tensor losses, Tensor correct, Tensor d_logits, Tensor logits,
                                Tensor targets, float scale) {
  const cuda::CrossEntropy task{data_of<float>(losses),
                                data_of<std::uint8_t>(correct),
                                rows_of(d_logits),
                                data_of<float>(logits),
                                data_of<std::int32_t>(targets),
                                logits.cols(),
                                scale};
  launch(on("cross_entropy", dim3(static_cast<unsigned>(logits.rows())), 256),
         cuda::cross_entropy_kernel, task);
}

}  // namespace quest
