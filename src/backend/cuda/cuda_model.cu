// CudaBackend: embedding, norm, rotary embedding, SwiGLU, cross-entropy.
#include <algorithm>

#include "backend/cuda/model_kernels.cuh"
#include "backend/cuda/span_launch.h"

namespace quest {

using cuda::data_of;
using cuda::rows_of;

namespace {

// take(Rope) of the rows' type.
template <typename Take>
void with_rope(const Tensor& x, const Tensor& cos, const Tensor& sin, RopeLayout layout,
               bool inverse, const Take& take) {
  const unsigned half = cuda::narrow(cos.cols());
  const bool suits = half % 4 == 0 && cuda::rows_begin_at(x, 16) && cuda::rows_begin_at(cos, 16) &&
                     cuda::rows_begin_at(sin, 16);
  cuda::with_rows(
      suits,
      [&]<typename Rows>(const Rows& rows) {
        take(cuda::Rope<Rows>{rows, data_of<float>(cos), data_of<float>(sin), half,
                              cuda::narrow(x.cols()) / (2 * half),
                              layout == RopeLayout::kInterleaved, inverse});
      },
      rows_of(x));
}

// Of a block that turns a row: one a group of pairs, at most 256.
template <typename Rows>
unsigned threads_of(const cuda::Rope<Rows>& turn) {
  const unsigned pieces = turn.half / cuda::Rope<Rows>::kPairs * turn.heads;
  return std::min(256u, blocks_of(pieces, cuda::kWarp) * cuda::kWarp);
}

}  // namespace

void CudaBackend::embedding(Tensor x, Tensor tokens, Tensor table) {
  const auto run = [&]<typename Table>(const Table& rows) {
    for_each("embedding", x.rows(), x.cols(),
             cuda::Embedding<Table>{
                 {data_of<float>(x), x.row_stride}, rows, data_of<std::int32_t>(tokens)});
  };
  cuda::with_rows(cuda::suit_vectors(x.cols(), x, table), run, rows_of(table));
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
  with_rope(x, cos, sin, layout, inverse, [&]<typename Rows>(const cuda::Rope<Rows>& turn) {
    launch(on("rope", dim3(cuda::narrow(x.rows())), threads_of(turn)), cuda::rope_kernel<Rows>,
           turn, first_position, cuda::narrow(length));
  });
}

void CudaBackend::cached_rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                              const SequenceSpans& spans) {
  const cuda::TileOrder order =
      cuda::plain_order(std::ssize(spans), cuda::narrow(cuda::longest(spans)));
  with_rope(x, cos, sin, layout, false, [&]<typename Rows>(const cuda::Rope<Rows>& turn) {
    launch(on("cached_rope", dim3(order.lines * order.tiles), threads_of(turn)),
           cuda::cached_rope_kernel<Rows>, turn, cuda::list_of(spans), order);
  });
}

void CudaBackend::swiglu(Tensor h, Tensor gate, Tensor up) {
  for_each("swiglu", h.rows(), h.cols(),
           cuda::Swiglu{rows_of(h), {rows_of(gate), rows_of(up), h.dtype == DType::kBF16}});
}

void CudaBackend::swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate, Tensor up) {
  const auto run = [&]<typename Rows>(const Rows& to_gate, const Rows& to_up, const Rows& d,
                                      const Rows& g, const Rows& u) {
    for_each("swiglu_backward", d_h.rows(), d_h.cols(),
             cuda::SwigluGradient<Rows>{to_gate, to_up, d, g, u});
  };
  cuda::with_rows(cuda::suit_vectors(d_h.cols(), d_gate, d_up, d_h, gate, up), run, rows_of(d_gate),
                  rows_of(d_up), rows_of(d_h), rows_of(gate), rows_of(up));
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
