// What the norm and SwiGLU that quantize their rows must set, for tests.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "backend/kernel_cases.h"

namespace quest {

/// On one backend, rmsnorm_quantize and swiglu_quantize set the bits that two kernels set each.
inline void expect_fused_quantization(Backend& backend, std::int64_t rows, std::int64_t columns,
                                      DType dtype, const RowQuantizer& quantizer,
                                      const std::string& what) {
  const OwnedTensor x({rows, columns}, DType::kF32), weight({columns}, DType::kF32);
  const OwnedTensor gate_up({rows, 2 * columns}, dtype);
  fill_normal(x, 1);
  fill_normal(weight, 2);
  fill_normal(gate_up, 3);
  const Tensor gate = gate_up.view().columns(0, columns);
  const Tensor up = gate_up.view().columns(columns, 2 * columns);
  const OwnedTensor y({rows, columns}, dtype), scratch({rows, columns}, dtype);
  const OwnedTensor rstd({rows}, DType::kF32), fused_rstd({rows}, DType::kF32);
  const OwnedQuantizedRows apart(rows, columns), fused(rows, columns);
  backend.rmsnorm(y, rstd, x, weight, 1e-5f);
  backend.quantize_rows(apart.view(), y, quantizer);
  backend.rmsnorm_quantize(fused.view(), scratch, fused_rstd, x, weight, 1e-5f, quantizer);
  EXPECT_TRUE(fused.same_bytes(apart)) << "rmsnorm " << what;
  EXPECT_TRUE(fused_rstd.same_bytes(rstd)) << "rstd " << what;
  backend.swiglu(y, gate, up);
  backend.quantize_rows(apart.view(), y, quantizer);
  backend.swiglu_quantize(fused.view(), scratch, gate, up, quantizer);
  EXPECT_TRUE(fused.same_bytes(apart)) << "swiglu " << what;
}

}  // namespace quest
