// How kernels follow one another on a stream ("programmatic dependent launch", compute capability
// 9.0 on). The blocks of a kernel may come to a multiprocessor while the last ones of the kernel
// before still work; what a launch and the first loads take is then hidden. So each kernel has to
// say where it begins to depend on what came before, in all of its threads.
#pragma once

#include <cuda_runtime.h>

namespace quest::cuda {

/// Whether the code being compiled has these instructions. Kernels built for less are never begun
/// early.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kHasKernelOrder = true;
#else
inline constexpr bool kHasKernelOrder = false;
#endif

/// Lets the next kernel come as soon as all blocks of this one have called it. That one waits for
/// the end of this one (await_last_kernel), so it may be called first of all.
__device__ __forceinline__ void admit_next_kernel() {
  if constexpr (kHasKernelOrder) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/// Waits until the kernel before has ended, and with it all before that one; what they wrote can be
/// read from here on, and what they read be written.
__device__ __forceinline__ void await_last_kernel() {
  if constexpr (kHasKernelOrder) asm volatile("griddepcontrol.wait;" ::: "memory");
}

/// Sixteen bytes that no kernel of this program writes, such as packed weights: they may be read
/// before await_last_kernel.
__device__ __forceinline__ uint4 load_constant(const void* from) {
  // Not __ldg: such loads need no order to anything else, so ptxas moves them behind the wait.
  return *static_cast<const uint4*>(from);
}

/// Asks for what no kernel of this program writes to come to the second-level cache; it may be
/// called before await_last_kernel. `from` and `bytes` are multiples of 16.
__device__ __forceinline__ void fetch_constants(const void* from, unsigned bytes) {
  if constexpr (kHasKernelOrder) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)),
                 "r"(bytes)
                 : "memory");
  }
}

/// The first statement of every kernel that reads nothing before.
__device__ __forceinline__ void follow_last_kernel() {
  admit_next_kernel();
  await_last_kernel();
}

}  // namespace quest::cuda
