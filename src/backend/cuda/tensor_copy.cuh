// Copies of tiles into shared memory by the copy engine of a multiprocessor (TMA), and the barriers
// with phases (mbarrier) that count what has come: one instruction a function. As warpgroup.cuh,
// compute capability 9.0 alone (sm_90a).
//
// What must happen in which order (PTX ISA, "mbarrier" and "Asynchronous copy"):
//   1. One thread makes the barriers (begin_phases) and announces them; then sync_cluster.
//   2. A phase of a barrier ends when all its arrivals and all bytes that they expect have come.
//      Phases count from 0: wait_for_phase(barrier, p) returns when the phase underway has another
//      parity than p, so at once for parity 1 of a new barrier.
//   3. Copies write what products read (both are of the async proxy), so no publish_shared_writes
//      stands between. Who has waited for products that read a tile may arrive at a barrier whose
//      phase lets the tile be overwritten.
//   4. No block of a cluster may end while another sends it tiles or arrives at its barriers.
#pragma once

#include <cuda.h>

#include "backend/cuda/warpgroup.cuh"

namespace quest::cuda {

/// Makes a barrier of 8 bytes in shared memory whose phases have so many arrivals.
__device__ __forceinline__ void begin_phases(std::uint64_t* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

/// Lets copies, and after sync_cluster all threads of a cluster, see what this thread has made.
__device__ __forceinline__ void announce_phases() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Arrives, and has the phase wait for so many bytes more.
__device__ __forceinline__ void arrive_and_expect(std::uint64_t* barrier, unsigned bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

/// Arrives at the barrier that lies at this place in the shared memory of a block of the cluster.
/// It orders nothing that this thread has written, only that what it has waited for is over: an
/// order for the cluster (.release.cluster) would have each arrival wait for global memory.
__device__ __forceinline__ void arrive_at(std::uint64_t* barrier, unsigned block) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(block)
      : "memory");
}

/// Waits until the phase underway has another parity.
__device__ __forceinline__ void wait_for_phase(std::uint64_t* barrier, unsigned parity) {
  unsigned ended = 0;
  do {  // a try may return early
    asm volatile(
        "{\n"
        ".reg .pred ended;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
        "selp.u32 %0, 1, 0, ended;\n"
        "}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (ended == 0);
}

/// Begins to copy the box at places `at` of a tensor, the innermost first, to `to`, at a multiple
/// of 128 bytes (1024 where swizzled); places outside of the tensor become zeros. The barrier's
/// phase is told of all bytes of the box. To be called by one thread.
__device__ __forceinline__ void copy_tile(std::byte* to, const CUtensorMap& map, const int (&at)[2],
                                          std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
      "l"(&map), "r"(at[0]), "r"(at[1]), "r"(shared_address(barrier))
      : "memory");
}

/// The same to several blocks of the cluster, bit b of `blocks` for block b: to the same place of
/// shared memory in each, and each one's own barrier there is told.
__device__ __forceinline__ void copy_tile_to_blocks(std::byte* to, const CUtensorMap& map,
                                                    const int (&at)[5], std::uint64_t* barrier,
                                                    unsigned blocks) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(shared_address(to)),
      "l"(&map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]),
      "r"(shared_address(barrier)), "h"(static_cast<std::uint16_t>(blocks))
      : "memory");
}

/// Waits for all threads of the cluster, and sees what they wrote.
__device__ __forceinline__ void sync_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release;\n"
      "barrier.cluster.wait.acquire;" ::
          : "memory");
}
/// The number of this block in its cluster.
__device__ __forceinline__ unsigned block_in_cluster() {
  unsigned block;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(block));
  return block;
}

/// Waits for all threads of this warpgroup of the block (0 to 14).
__device__ __forceinline__ void sync_warpgroup(unsigned warpgroup) {
  asm volatile("barrier.sync %0, 128;" ::"r"(1 + warpgroup) : "memory");
}

/// Registers of a thread from here on: a warpgroup gives up some, and another takes them, waiting
/// until there are enough. A multiple of 8, 24 to 256; to be called by whole warpgroups.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace quest::cuda
