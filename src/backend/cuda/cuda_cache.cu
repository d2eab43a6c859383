// CudaBackend: keys and values on their way into a cache.
#include "backend/cuda/cache_kernels.cuh"
#include "backend/cuda/span_launch.h"

namespace quest {
namespace {

using cuda::data_of, cuda::list_of, cuda::longest, cuda::narrow, cuda::plain_order, cuda::rows_of;

// A warp has places for so many pairs.
void check_heads(std::int64_t dim) {
  constexpr std::int64_t kMost = 2 * cuda::kMostPairs * cuda::kWarp;
  if (dim > kMost) fail("CUDA: heads of {} values; at most {} are supported", dim, kMost);
}

/// The kernel whose lanes have as many pairs as heads need.
template <typename Kernel>
Kernel* of_pairs(std::int64_t dim, Kernel* one, Kernel* two, Kernel* most) {
  const std::int64_t lanes = cuda::kWarp;
  return dim <= 2 * lanes ? one : dim <= 4 * lanes ? two : most;
}

cuda::CacheOut out_of(const CacheRows& cache) {
  if (!cache.scales) return {rows_of(cache.values), nullptr, nullptr, 0, 0};
  return {{},
          data_of<std::int8_t>(cache.values),
          data_of<float>(cache.scales),
          cache.values.row_stride,
          cache.scales.row_stride};
}

cuda::PairPlaces places_of(std::int64_t dim, bool neighbours) {
  return {static_cast<int>((dim + 1) / 2), static_cast<int>(dim), neighbours};
}

}  // namespace

void CudaBackend::cache_append(const CacheRows& cache, Tensor x, const SequenceSpans& spans) {
  if (spans.empty()) return;
  const std::int64_t heads = cache.scales ? cache.scales.cols() : 1;
  const std::int64_t dim = cache.values.cols() / heads;
  if (cache.scales) check_heads(dim);
  const cuda::CacheAppend task{out_of(cache),
                               rows_of(x),
                               places_of(dim, true),
                               list_of(spans),
                               plain_order(std::ssize(spans) * heads, narrow(longest(spans))),
                               narrow(heads)};
  launch(with_blocks(on("cache_append", dim3(), 0), task.order, cuda::kWarp, 0),
         of_pairs(dim, cuda::cache_append_kernel<1>, cuda::cache_append_kernel<2>,
                  cuda::cache_append_kernel<cuda::kMostPairs>),
         task);
}

void CudaBackend::cached_rope_append(Tensor qkv, const Rotary& rotary, const CacheRows& k,
                                     const CacheRows& v, const SequenceSpans& spans) {
  if (spans.empty()) return;
  const std::int64_t dim = 2 * rotary.cos.cols(), kv_heads = k.values.cols() / dim;
  check_heads(dim);
  const std::int64_t heads = rotary.columns / dim - kv_heads, all = heads + 2 * kv_heads;
  const cuda::RopeAppend task{rows_of(qkv),
                              {data_of<float>(rotary.cos), data_of<float>(rotary.sin)},
                              out_of(k),
                              out_of(v),
                              places_of(dim, rotary.layout == RopeLayout::kInterleaved),
                              list_of(spans),
                              plain_order(std::ssize(spans) * all, narrow(longest(spans))),
                              narrow(heads),
                              narrow(kv_heads)};
  launch(with_blocks(on("cached_rope_append", dim3(), 0), task.order, cuda::kWarp, 0),
         of_pairs(dim, cuda::cached_rope_append_kernel<1>, cuda::cached_rope_append_kernel<2>,
                  cuda::cached_rope_append_kernel<cuda::kMostPairs>),
         task);
}

}  // namespace quest
