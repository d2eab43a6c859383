// src/backend/cuda/tensor_copy.cuh on the host: the same functions, for g++. See there for what
// they do; the include path of cuda_on_host finds this file first.
//
// Copies are made when somebody waits for the phase that counts them and all else of it has come;
// until then their target is spoiled. So a wait that does not wait shows in the numbers, and so
// does a tile that is filled while it is read.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace cuda_on_host {

void begin_phases(std::uint64_t* barrier, unsigned arrivals, const std::source_location& where);
void announce_phases(const std::source_location& where);
void arrive(std::uint64_t* barrier, unsigned block, unsigned bytes,
            const std::source_location& where);
void wait_for_phase(std::uint64_t* barrier, unsigned parity, const std::source_location& where);
/// blocks: a bit for each block of the cluster that gets the tile.
void copy_tile(std::byte* to, const CUtensorMap& map, const int* at, unsigned rank, unsigned blocks,
               std::uint64_t* barrier, const std::source_location& where);
unsigned cluster_rank();

}  // namespace cuda_on_host

namespace quest::cuda {

inline void begin_phases(std::uint64_t* barrier, unsigned arrivals,
                         const std::source_location& where = std::source_location::current()) {
  cuda_on_host::begin_phases(barrier, arrivals, where);
}
inline void announce_phases(const std::source_location& where = std::source_location::current()) {
  cuda_on_host::announce_phases(where);
}
inline void arrive_and_expect(std::uint64_t* barrier, unsigned bytes,
                              const std::source_location& where = std::source_location::current()) {
  cuda_on_host::arrive(barrier, cuda_on_host::cluster_rank(), bytes, where);
}
inline void arrive_at(std::uint64_t* barrier, unsigned block,
                      const std::source_location& where = std::source_location::current()) {
  cuda_on_host::arrive(barrier, block, 0, where);
}
inline void wait_for_phase(std::uint64_t* barrier, unsigned parity,
                           const std::source_location& where = std::source_location::current()) {
  cuda_on_host::wait_for_phase(barrier, parity, where);
}
inline void copy_tile(std::byte* to, const CUtensorMap& map, const int (&at)[2],
                      std::uint64_t* barrier,
                      const std::source_location& where = std::source_location::current()) {
  cuda_on_host::copy_tile(to, map, at, 2, 1u << cuda_on_host::cluster_rank(), barrier, where);
}
inline void copy_tile_to_blocks(
    std::byte* to, const CUtensorMap& map, const int (&at)[5], std::uint64_t* barrier,
    unsigned blocks, const std::source_location& where = std::source_location::current()) {
  cuda_on_host::copy_tile(to, map, at, 5, blocks, barrier, where);
}
inline void sync_cluster(const std::source_location& where = std::source_location::current()) {
  cuda_on_host::cluster_barrier(where);
}
inline unsigned block_in_cluster() { return cuda_on_host::cluster_rank(); }
inline void sync_warpgroup(unsigned warpgroup,
                           const std::source_location& where = std::source_location::current()) {
  cuda_on_host::named_barrier(1 + warpgroup, 128, where);
}
template <int kRegisters>
void take_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}
template <int kRegisters>
void give_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}

}  // namespace quest::cuda
