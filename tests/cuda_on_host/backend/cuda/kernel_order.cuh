// src/backend/cuda/kernel_order.cuh on the host: the same functions, for g++; see there.
#pragma once

#include <cuda_runtime.h>

namespace quest::cuda {

inline void admit_next_kernel() {}
inline void await_last_kernel() { cuda_on_host::await_last_kernel(); }
inline uint4 load_constant(const void* from) { return cuda_on_host::read_early(from); }
inline void fetch_constants(const void* from, unsigned bytes) {
  cuda_on_host::fetch_early(from, bytes);
}
inline void follow_last_kernel() { await_last_kernel(); }

}  // namespace quest::cuda
