// CpuBackend: host kernels on several threads, in the best instruction set that the CPU has.
#pragma once

#include "backend/cpu/isa.h"
#include "backend/cpu/workspace.h"
#include "backend/reference/reference_backend.h"

namespace quest {

class CpuBackend : public ReferenceBackend {
 public:
  /// `threads` 0: all that the process may use.
  explicit CpuBackend(int threads, Isa isa = choose_isa());

  std::string name() const override;
  int threads() const override { return threads_; }
  Isa isa() const { return isa_; }
  /// Scratch memory that the kernels hold now; grows with the largest shapes that they have seen.
  std::size_t workspace_bytes() const { return workspace_.total_bytes(); }

  void quantize_rows(const QuantizedRows& rows, Tensor x, const RowQuantizer& quantizer) override;
  void quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                              Write write) override;
  void dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) override;
  void quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                          const RowQuantizer& quantizer) override;

  void quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                        Write write) override;
  void quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                   Write write) override;
  void quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x) override;

 private:
  int threads_;
  Isa isa_;
  Workspace workspace_;
};

}  // namespace quest
