// What the parts of the emulation share: blocks that run (execution.cc) and what their threads do
// besides (tensor_core.cc, warpgroup.cc).
#pragma once

#include "cuda_runtime.h"

namespace cuda_on_host {

constexpr unsigned kWarp = 32;
constexpr unsigned kMostThreads = 1024;

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

/// Bytes from dynamic_shared() on.
std::size_t dynamic_shared_bytes();

}  // namespace cuda_on_host
