// CudaBackend: kernels on one CUDA device, in order on one stream.
#pragma once

#include <cuda_runtime.h>

#include "backend/backend.h"
#include "backend/cuda/check.h"
#include "backend/cuda/device_rows.cuh"
#include "backend/cuda/lt_products.h"
#include "backend/cuda/product_outputs.cuh"
#include "backend/cuda/staging.h"
#include "backend/cuda/tensor_maps.h"
#include "backend/cuda/workspace.h"

namespace quest {

namespace cuda {

/// What products of codes have to know of a device.
struct ProductDevice {
  int multiprocessors = 1;
  bool has_warpgroups = false;  ///< compute capability 9.0, and a build for it by name (sm_90a)
  TensorMapEncoder encode_map = nullptr;  ///< with warpgroups, where the driver has it
};
/// Of device number `device`.
ProductDevice product_device(int device);

}  // namespace cuda

/// See backend.h for what each kernel computes. Copies to the host, and large ones from it, end
/// before they return; all else is asynchronous, and what the host reads it reads by `copy`. Same
/// inputs, same bits: no kernel adds atomically. Heads may have up to 256 values. To be used on the
/// thread that made it, beside no backend of another device: launches go to that thread's current
/// device.
class CudaBackend : public Backend {
 public:
  explicit CudaBackend(int device);
  ~CudaBackend() override { cudaStreamSynchronize(stream_); }

  std::string name() const override { return name_; }
  Place place() const override { return Place::kCuda; }
  int threads() const override { return 1; }
  void* allocate(std::size_t bytes) override;
  void deallocate(void* data, std::size_t bytes) noexcept override;
  void synchronize() override;
  std::unique_ptr<Stopwatch> make_stopwatch() override;
  std::unique_ptr<Recording> make_recording() override;

  void copy(Tensor dst, Tensor src) override;
  void zero(Tensor dst) override;
  void cast(Tensor dst, Tensor src) override;

  void quantize_rows(const QuantizedRows& rows, Tensor x, const RowQuantizer& quantizer) override;
  void quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                              Write write) override;
  void dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) override;
  void quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                          const RowQuantizer& quantizer) override;

  void matmul(Tensor y, Tensor x, Tensor w, Write write) override;
  void matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) override;
  void matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) override;
  void quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                        Write write) override;
  void quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                   Write write) override;
  void quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                    Write write) override;
  void integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                 const RoundingKey& key, Write write) override;
  void integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                  const RoundingKey& key, Write write) override;

  void packed_matmul(Tensor y, const QuantizedRows& x, int x_bits, const PackedRows& w,
                     Write write) override;
  void quantize_packed_matmul(Tensor y, const QuantizedRows& rows, const RowSource& source,
                              const RowQuantizer& quantizer, int x_bits, const PackedRows& w,
                              Write write) override;
  void packed_dense_matmul(Tensor y, Tensor x, const PackedRows& w, std::int64_t block,
                           Write write) override;
  void stored_matmul(Tensor y, Tensor x, Tensor w, Write write) override;
  void packed_embedding(Tensor x, Tensor tokens, const PackedRows& table,
                        std::int64_t block) override;

  void embedding(Tensor x, Tensor tokens, Tensor table) override;
  void embedding_backward(Tensor d_table, Tensor d_x, Tensor tokens) override;
  void rmsnorm(Tensor y, Tensor rstd, Tensor x, Tensor weight, float epsilon) override;
  void rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x, Tensor weight,
                        float epsilon, const RowQuantizer& quantizer) override;
  void rmsnorm_backward(Tensor d_x, Tensor rounded, Tensor d_weight, Tensor d_y, Tensor x,
                        Tensor weight, Tensor rstd) override;
  void rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout, std::int64_t first_position,
            std::int64_t length, bool inverse) override;
  void cached_rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                   const SequenceSpans& spans) override;
  void attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                 const AttentionShape& shape) override;
  void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k,
                          Tensor v, Tensor out, Tensor log_sums,
                          const AttentionShape& shape) override;
  void cache_append(const CacheRows& cache, Tensor x, const SequenceSpans& spans) override;
  void cached_rope_append(Tensor qkv, const Rotary& rotary, const CacheRows& k, const CacheRows& v,
                          const SequenceSpans& spans) override;
  void cached_attention(Tensor out, Tensor q, const CacheRows& k, const CacheRows& v,
                        const SequenceSpans& spans, const HeadShape& shape) override;
  void cached_rope_attention(Tensor out, Tensor qkv, const Rotary& rotary, const CacheRows& k,
                             const CacheRows& v, const SequenceSpans& spans,
                             const HeadShape& shape) override;
  void swiglu(Tensor h, Tensor gate, Tensor up) override;
  void swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                       const RowQuantizer& quantizer) override;
  void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate, Tensor up) override;
  void cross_entropy(Tensor losses, Tensor correct, Tensor d_logits, Tensor logits, Tensor targets,
                     float scale) override;

  void sum(Tensor total, Tensor x) override;
  void sum_squares(Tensor total, Tensor x) override;
  void clip_scale(Tensor scale, Tensor sums, float max_norm) override;
  void adamw(Tensor parameter, const Moment& first, const Moment& second, Tensor gradient,
             Tensor grad_scale, const AdamWStep& step) override;

 private:
  Launch on(const char* name, dim3 grid, unsigned threads) const {
    return {name, stream_, grid, threads};
  }
  template <typename Body>
  void for_each(const char* name, std::int64_t rows, std::int64_t columns, const Body& body) {
    const unsigned column_blocks =
        blocks_of(columns, std::int64_t{cuda::kElementThreads} * cuda::kBodyWidth<Body>);
    launch(on(name, dim3(static_cast<unsigned>(rows) * column_blocks), cuda::kElementThreads),
           cuda::for_each_kernel<Body>, body, columns, column_blocks);
  }
  // out (= or +=) the product of two float tensors; `name` is for errors.
  void multiply(const char* name, Tensor out, const cuda::Factor& left, const cuda::Factor& right,
                Write write);
  // x H in f32, in the workspace; x itself where nothing is rotated.
  Tensor rotated_rows(Tensor x, std::int64_t block);
  // packed_matmul of few rows, packed_dense_matmul, and packed_matmul of many rows, with weights as
  // they are; false, and nothing done, where their bits or their alignment do not allow it.
  bool decode_packed(Tensor x_codes, const PackedRows& w, cuda::WriteQuantized write_sum);
  template <int kDigits>
  bool multiply_fixed_point(Tensor y, Tensor x, const PackedRows& w, bool add);
  bool multiply_packed(Tensor y, Tensor x_codes, const PackedRows& w,
                       cuda::WriteQuantized write_sum);
  // The values of rows, rounded to `type`; in the workspace.
  Tensor widened_codes(const QuantizedRows& rows, DType type);
  // Between the host and the device, where both tensors are contiguous and small.
  void copy_staged(Tensor dst, Tensor src, cudaMemcpyKind kind);
  void add_up(Tensor total, Tensor x, bool squares);

  cuda::OwnedStream owned_stream_;  // first, so that it outlives what frees memory on it
  cudaStream_t stream_;
  std::string name_;
  cuda::ProductDevice device_;
  cuda::Staging staging_;
  cuda::Workspace workspace_;
  cuda::LtProducts products_;
};

namespace cuda {

/// The elements of a tensor of this device. Throws Error when it lies on the host.
void require_device(const Tensor& tensor);
template <typename T>
T* data_of(const Tensor& tensor) {
  require_device(tensor);
  return tensor ? tensor.as<T>() : nullptr;
}
/// The same of an argument that is also given to kernels of the host. Throws where it is missing.
const void* device_twin(const Tensor& on_device);
FloatRows rows_of(const Tensor& tensor);
/// Whether each row begins at a multiple of `bytes`.
inline bool rows_begin_at(const Tensor& tensor, std::size_t bytes) {
  const std::size_t stride = static_cast<std::size_t>(tensor.row_stride) * size_bytes(tensor.dtype);
  return reinterpret_cast<std::uintptr_t>(tensor.data) % bytes == 0 &&
         (tensor.rows() <= 1 || stride % bytes == 0);
}
/// Whether `columns` of all can be taken eight neighbours at a time, in loads of 16 bytes.
template <typename... Tensors>
bool suit_vectors(std::int64_t columns, const Tensors&... tensors) {
  return columns % 8 == 0 && (rows_begin_at(tensors, 16) && ...);
}

}  // namespace cuda
}  // namespace quest
