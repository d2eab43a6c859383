// src/backend/cuda/warpgroup.cuh on the host: the same functions, for g++. See there for what they
// do; the include path of cuda_on_host finds this file first.
//
// Products are made of what had been published when they began, and their sums come when they are
// waited for; until then the sums are spoiled. A factor that has changed by then spoils them for
// good. So a missing wait shows in the numbers, a stage that is filled too early, and writes that
// nobody published.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace cuda_on_host {

unsigned shared_address(const void* data);
void publish_shared_writes();
void begin_products(const std::source_location& where);
/// sums: [tiles][4].
void multiply_async(std::int32_t* sums, int tiles, bool is_unsigned, std::uint64_t left,
                    std::uint64_t right, const std::source_location& where);
void commit_products(const std::source_location& where);
void wait_for_products(int pending, const std::source_location& where);

}  // namespace cuda_on_host

namespace quest::cuda {

inline constexpr bool kHasWarpgroups = true;
inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kWarpgroupRows = 64;
inline constexpr int kWarpgroupDepth = 32;

inline unsigned shared_address(const void* data) { return cuda_on_host::shared_address(data); }
inline void publish_shared_writes() { cuda_on_host::publish_shared_writes(); }
inline void begin_products(const std::source_location& where = std::source_location::current()) {
  cuda_on_host::begin_products(where);
}
template <bool kUnsigned, int kTiles>
void multiply_async(std::int32_t (&sums)[kTiles][4], std::uint64_t left, std::uint64_t right,
                    const std::source_location& where = std::source_location::current()) {
  static_assert(kTiles == 16 || kTiles == 32);
  cuda_on_host::multiply_async(sums[0], kTiles, kUnsigned, left, right, where);
}
inline void commit_products(const std::source_location& where = std::source_location::current()) {
  cuda_on_host::commit_products(where);
}
template <int kPending>
void wait_for_products(const std::source_location& where = std::source_location::current()) {
  cuda_on_host::wait_for_products(kPending, where);
}
template <int kTiles>
void finish_products(std::int32_t (&)[kTiles][4],
                     const std::source_location& where = std::source_location::current()) {
  cuda_on_host::wait_for_products(0, where);
}

}  // namespace quest::cuda
