// The instructions of tensor cores and of copies into shared memory that C++ has no name for, each
// in one function. All exist from sm_80 on.
//
// Below, lane 4 g + t of a warp has g = 0..7 and t = 0..3. Fragments are those of the PTX ISA's
// chapter on mma: what a lane holds of a matrix depends on g and t alone.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace quest::cuda {

/// The block's dynamic shared memory (Launch::shared_bytes), aligned to 128 bytes.
__device__ inline std::byte* dynamic_shared() {
  extern __shared__ __align__(128) std::byte quest_dynamic_shared[];
  return quest_dynamic_shared;
}

/// sums [16, 8] += a [16, 32] b [32, 8], a and b integers of 8 bits, in 32 bits that wrap.
/// a: row g, places 4 t.. | row g + 8, places 4 t.. | row g, 16 + 4 t.. | row g + 8, 16 + 4 t..;
/// b: column g, places 4 t.. | column g, places 16 + 4 t..; the first place is the lowest byte.
/// sums: row g, columns 2 t and 2 t + 1; row g + 8, the same columns.
__device__ inline void multiply_add(std::int32_t (&sums)[4], const unsigned (&a)[4], unsigned b0,
                                    unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The same where the integers of b are unsigned.
__device__ inline void multiply_add_unsigned(std::int32_t (&sums)[4], const unsigned (&a)[4],
                                             unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The same where the integers of a are unsigned, and those of b are not.
__device__ inline void multiply_unsigned_add(std::int32_t (&sums)[4], const unsigned (&a)[4],
                                             unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// sums [16, 8] += a [16, 16] b [16, 8], a and b in bf16; the order in which products are added,
/// and how that is rounded, is the device's.
/// a: row g, places 2 t.. | row g + 8, places 2 t.. | row g, 8 + 2 t.. | row g + 8, 8 + 2 t..;
/// b: column g, places 2 t.. | column g, places 8 + 2 t..; the first place is the lower half.
/// sums: as above.
__device__ inline void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0,
                                    unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four matrices of 8 rows of 16 bytes of shared memory: `row` of lane l is row l % 8 of matrix
/// l / 8, at a multiple of 16 bytes. to[i]: word t of row g of matrix i.
/// The eight rows of a matrix are read at once if they begin in different 16 bytes modulo 128.
__device__ inline void load_matrices(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}

/// The same of matrices of 8 x 8 halfwords, transposed: to[i] has halfword g of row 2 t of matrix i
/// below halfword g of row 2 t + 1.
__device__ inline void load_matrices_transposed(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}

/// Begins a copy of `bytes` (0..kSize) bytes and of zeros after them: kSize (4, 8 or 16) in shared
/// memory, which must not be touched until a wait. Both ends at multiples of kSize bytes; `global`
/// is not read where bytes is 0. Copies of 16 bytes pass the first-level cache by, and bring whole
/// lines of 128 bytes to the second.
template <int kSize = 16>
__device__ void copy_async(void* shared, const void* global, int bytes) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const std::size_t from = __cvta_generic_to_global(global);
  if constexpr (kSize == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kSize),
                 "r"(bytes)
                 : "memory");
  }
}

/// Makes a group of this thread's copies since the last call; it may be empty.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits for this thread's groups but for the last kPending. Other threads see what was copied
/// after a barrier.
template <int kPending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace quest::cuda
