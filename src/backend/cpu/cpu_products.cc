// CpuBackend: dense products.
#include "backend/cpu/cpu_backend.h"

namespace quest {

void CpuBackend::matmul(Tensor y, Tensor x, Tensor w, Write write) {
  products_.multiply(y, {x}, {w, true}, write, workspace_);
}

void CpuBackend::matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) {
  products_.multiply(d_x, {d_y}, {w}, write, workspace_);
}

void CpuBackend::matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x) {
  products_.multiply(d_w, {d_y, true}, {x}, Write::kAdd, workspace_);
}

}  // namespace quest
