// The instructions of warpgroups (wgmma), one function each: products whose factors lie in shared
// memory and whose sums stay in registers, made while the warps go on. Compute capability 9.0 alone
// has them, and only code that is built for it by name (sm_90a).
//
// What must happen in which order (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions"):
//   1. Each thread that wrote factors, by stores or by copies which it has waited for, calls
//      publish_shared_writes; then a barrier.
//   2. begin_products, multiply_async any number of times, commit_products.
//   3. wait_for_products. Until then the sums must not be touched, nor the factors overwritten.
// All are called by all four warps of a warpgroup (threads 128 i ..) at one place.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace quest::cuda {

/// Whether the code being compiled may use these functions.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
inline constexpr bool kHasWarpgroups = true;
#else
inline constexpr bool kHasWarpgroups = false;
#endif

inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kWarpgroupRows = 64;   // of a product
inline constexpr int kWarpgroupDepth = 32;  // its places of the sum

/// Where `data` lies in the block's shared memory, as descriptors count.
__device__ __forceinline__ unsigned shared_address(const void* data) {
  return static_cast<unsigned>(__cvta_generic_to_shared(data));
}

/// Lets later products see what this thread has written to shared memory. Others' products: after a
/// barrier.
__device__ __forceinline__ void publish_shared_writes() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Before the first multiply_async on sums that were touched.
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// The operands of an instruction: its registers by number, and what they hold.
#define QUEST_REGISTERS_64                                                                     \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
  "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, " \
  "%56, %57, %58, %59, %60, %61, %62, %63"
#define QUEST_REGISTERS_128                                                                      \
  QUEST_REGISTERS_64                                                                             \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "   \
  "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, "   \
  "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define QUEST_SUMS_4(i) "+r"(sums[i][0]), "+r"(sums[i][1]), "+r"(sums[i][2]), "+r"(sums[i][3])
#define QUEST_SUMS_16(i) \
  QUEST_SUMS_4(i), QUEST_SUMS_4((i) + 1), QUEST_SUMS_4((i) + 2), QUEST_SUMS_4((i) + 3)
#define QUEST_SUMS_64(i) \
  QUEST_SUMS_16(i), QUEST_SUMS_16((i) + 4), QUEST_SUMS_16((i) + 8), QUEST_SUMS_16((i) + 12)

#define QUEST_WGMMA_N128(type)                                                                \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.s32.s8." type " {" QUEST_REGISTERS_64 \
               "}, %64, %65, 1;"                                                              \
               : QUEST_SUMS_64(0)                                                             \
               : "l"(left), "l"(right))
#define QUEST_WGMMA_N256(type)                                                                 \
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k32.s32.s8." type " {" QUEST_REGISTERS_128 \
               "}, %128, %129, 1;"                                                             \
               : QUEST_SUMS_64(0), QUEST_SUMS_64(16)                                           \
               : "l"(left), "l"(right))

/// Begins sums [64, 8 kTiles] += left [64, 32] right [8 kTiles, 32]^T, integers of 8 bits,
/// `right`'s unsigned or not, in 32 bits that wrap. Factors are descriptors (matrix_descriptor),
/// the same in all threads. Warp w of the warpgroup has rows 16 w ..; of these lane 4 g + t holds
/// in sums[i] row g, columns 8 i + 2 t and the next, then row g + 8, the same columns.
template <bool kUnsigned>
__device__ __forceinline__ void multiply_async(std::int32_t (&sums)[16][4], std::uint64_t left,
                                               std::uint64_t right) {
  if constexpr (kUnsigned) {
    QUEST_WGMMA_N128("u8");
  } else {
    QUEST_WGMMA_N128("s8");
  }
}
template <bool kUnsigned>
__device__ __forceinline__ void multiply_async(std::int32_t (&sums)[32][4], std::uint64_t left,
                                               std::uint64_t right) {
  if constexpr (kUnsigned) {
    QUEST_WGMMA_N256("u8");
  } else {
    QUEST_WGMMA_N256("s8");
  }
}

/// Makes a group of the products since the last call.
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits for all groups but the last kPending: their factors may be overwritten.
template <int kPending>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Waits for all groups: `sums` may be read. They are operands, so that no use of them moves before
/// the wait.
__device__ __forceinline__ void finish_products(std::int32_t (&sums)[16][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" : QUEST_SUMS_64(0)::"memory");
}
__device__ __forceinline__ void finish_products(std::int32_t (&sums)[32][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" : QUEST_SUMS_64(0), QUEST_SUMS_64(16)::"memory");
}

#undef QUEST_WGMMA_N256
#undef QUEST_WGMMA_N128
#undef QUEST_SUMS_64
#undef QUEST_SUMS_16
#undef QUEST_SUMS_4
#undef QUEST_REGISTERS_128
#undef QUEST_REGISTERS_64

}  // namespace quest::cuda
