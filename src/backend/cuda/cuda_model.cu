// CudaBackend: embedding, norm, rotary embedding, SwiGLU, cross-entropy.
#include <algorithm>

#include "backend/cuda/loss_kernels.cuh"
#include "backend/cuda/model_kernels.cuh"
#include "backend/cuda/norm_kernels.cuh"
#include "backend/cuda/span_launch.h"

namespace quest {

using cuda::data_of;
using cuda::kWarp;
using cuda::narrow;
using cuda::rows_of;

namespace {

constexpr unsigned kMostThreads = 1024;  // of a block

// take(Rope) of the rows' type.
template <typename Take>
void with_rope(const Tensor& x, const Tensor& cos, const Tensor& sin, RopeLayout layout,
               bool inverse, const Take& take) {
  const unsigned half = narrow(cos.cols());
  const bool suits = half % 4 == 0 && cuda::rows_begin_at(x, 16) && cuda::rows_begin_at(cos, 16) &&
                     cuda::rows_begin_at(sin, 16);
  cuda::with_rows(
      suits,
      [&]<typename Rows>(const Rows& rows) {
        take(cuda::Rope<Rows>{rows, data_of<float>(cos), data_of<float>(sin), half,
                              narrow(x.cols()) / (2 * half), layout == RopeLayout::kInterleaved,
                              inverse});
      },
      rows_of(x));
}

// Of a block that turns a row: one a group of pairs, at most 256.
template <typename Rows>
unsigned threads_of(const cuda::Rope<Rows>& turn) {
  const unsigned pieces = turn.half / cuda::Rope<Rows>::kPairs * turn.heads;
  return std::min(256u, blocks_of(pieces, kWarp) * kWarp);
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
  const auto kernel = cuda::suit_vectors(d_x.cols(), d_table, d_x)
                          ? cuda::embedding_backward_kernel<4>
                          : cuda::embedding_backward_kernel<1>;
  launch(on("embedding_backward", dim3(narrow(d_x.rows())), 256), kernel, data_of<float>(d_table),
         data_of<float>(d_x), data_of<std::int32_t>(tokens), narrow(d_x.rows()), d_x.cols());
}

void CudaBackend::rmsnorm(Tensor y, Tensor rstd, Tensor x, Tensor weight, float epsilon) {
  const cuda::NormSource source{rows_of(x), data_of<float>(weight), data_of<float>(rstd), epsilon,
                                x.cols(),   y.dtype == DType::kBF16};
  launch(on("rmsnorm", dim3(static_cast<unsigned>(x.rows())), cuda::kNormThreads),
         cuda::rmsnorm_kernel, rows_of(y), source);
}

void CudaBackend::rmsnorm_backward(Tensor d_x, Tensor rounded, Tensor d_weight, Tensor d_y,
                                   Tensor x, Tensor weight, Tensor rstd) {
  // As many blocks as a large device has at once and enough for a small matrix; what they are does
  // not depend on the device.
  constexpr std::int64_t kBlocks = 512;
  const std::int64_t run = (x.rows() + kBlocks - 1) / kBlocks;
  const unsigned blocks = run == 0 ? 0 : blocks_of(x.rows(), run), columns = narrow(x.cols());
  float* const parts =
      workspace_.take<float>(cuda::Workspace::Slot::kSums, std::int64_t{blocks} * columns);
  const auto start = [&]<typename Rows>(const Rows& rows) {
    using Gradient = cuda::NormGradient<Rows>;
    const unsigned threads =
        Gradient::kHeld ? blocks_of(columns, Gradient::kHeldColumns * kWarp) * kWarp : 256;
    launch(on("rmsnorm_backward", dim3(blocks), threads), cuda::rmsnorm_backward_kernel<Rows>,
           Gradient{rows, data_of<float>(d_x), data_of<BFloat16>(rounded), parts, data_of<float>(x),
                    data_of<float>(weight), data_of<float>(rstd), x.rows(), run, columns});
  };
  const bool suits =
      columns <= kMostThreads * cuda::NormGradient<cuda::TypedRows<float>>::kHeldColumns &&
      cuda::suit_vectors(x.cols(), d_x, d_y, x, weight) &&
      (!rounded || cuda::rows_begin_at(rounded, 16));
  cuda::with_rows(suits, start, rows_of(d_y));
  launch(on("add_rows", dim3(blocks_of(columns, kWarp)), cuda::kAddThreads), cuda::add_rows_kernel,
         data_of<float>(d_weight), static_cast<const float*>(parts), blocks, columns);
}

void CudaBackend::rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                       std::int64_t first_position, std::int64_t length, bool inverse) {
  with_rope(x, cos, sin, layout, inverse, [&]<typename Rows>(const cuda::Rope<Rows>& turn) {
    launch(on("rope", dim3(narrow(x.rows())), threads_of(turn)), cuda::rope_kernel<Rows>, turn,
           first_position, narrow(length));
  });
}

void CudaBackend::cached_rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                              const SequenceSpans& spans) {
  const cuda::TileOrder order = cuda::plain_order(std::ssize(spans), narrow(cuda::longest(spans)));
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
                                narrow(logits.cols()),
                                scale};
  const bool vectors = logits.cols() % cuda::kLogits == 0 && cuda::rows_begin_at(logits, 16) &&
                       (!d_logits || cuda::rows_begin_at(d_logits, std::size_t{cuda::kLogits} *
                                                                       size_bytes(d_logits.dtype)));
  launch(on("cross_entropy", dim3(narrow(logits.rows())), cuda::kLossThreads),
         vectors ? cuda::cross_entropy_kernel<true> : cuda::cross_entropy_kernel<false>, task);
}

}  // namespace quest
