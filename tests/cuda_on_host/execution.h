// What the parts of the emulation share: blocks that run (execution.cc) and what their threads do
// besides (tensor_core.cc, warpgroup.cc).
#pragma once

#include "cuda_runtime.h"

namespace cuda_on_host {

constexpr unsigned kWarp = 32;
constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostCluster = 2;

[[noreturn]] void die(const char* what, const std::source_location& where);

/// Words that the lanes of a warp brought to one line: words[i][lane].
constexpr int kMostWords = 6;
using WarpWords = const std::uint32_t (*)[kWarp];
/// Waits until all lanes of this thread's whole warp have brought `count` words to this line. Holds
/// until the lane's next exchange.
WarpWords gather(const std::uint32_t* words, int count, const std::source_location& where);

/// A thread of a kernel has ended: it may have no copies, and no products of a warpgroup, that it
/// did not wait for.
void end_copies();
void end_products();
/// A block has ended: no copies to its shared memory may be underway.
void end_phases();
void forget_products();

/// Bytes from dynamic_shared() on, the same in all blocks of a cluster.
std::size_t dynamic_shared_bytes();
/// Of the block with that number in the cluster.
std::byte* dynamic_shared(unsigned rank);
/// The number of the block that runs in its cluster; the cluster's blocks; whether one has ended.
unsigned cluster_rank();
unsigned cluster_blocks();
bool has_ended(unsigned rank);

/// What waits for something calls the first again and again, and who brings it about the second.
void let_others_run(const std::source_location& where);
void count_progress();

/// Writes 16 bytes as the async proxy does, into what it and what threads see of the shared memory
/// of a block.
void write_published(unsigned rank, std::size_t offset, const std::byte (&bytes)[16]);

}  // namespace cuda_on_host
