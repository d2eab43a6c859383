// Loops of loads, in assembly so that no compiler leaves them out.
#include "backend/cpu/peaks/memory_reads.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "backend/cpu/peaks/fastest_run.h"
#include "backend/host_memory.h"

namespace quest {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kReadBytes = std::size_t{24} << 20;  // that a thread reads at least

/// Reads from `data`, where a line begins, up to `end`; returns where the first line begins that it
/// left out for want of a whole step.
using Loop = const std::byte* (*)(const std::byte* data, const std::byte* end);

const std::byte* read_lines(const std::byte* data, const std::byte* end) {
  for (; data < end; data += kLine)
    static_cast<void>(*static_cast<const volatile std::byte*>(data));
  return data;
}

#if defined(__x86_64__)

// A step is 256 bytes.
#define QUEST_READ_LOOP(TEXT, END)                                   \
  const std::byte* const last = data + (end - data) / 256 * 256;     \
  if (data == last) return data;                                     \
  asm volatile("1:\n" TEXT "add $256, %0\n cmp %1, %0\n jb 1b\n" END \
               : "+r"(data)                                          \
               : "r"(last)                                           \
               : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3");    \
  return data
#define QUEST_READ_512                              \
  "vmovaps (%0), %%zmm0\n vmovaps 64(%0), %%zmm1\n" \
  "vmovaps 128(%0), %%zmm2\n vmovaps 192(%0), %%zmm3\n"

const std::byte* read_512(const std::byte* data, const std::byte* end) {
  QUEST_READ_LOOP(QUEST_READ_512, "vzeroupper\n");
}
// The same with prefetches that hide the latency of what lies outside the caches: to the first
// level 16 KiB ahead, and to the second 2 KiB ahead.
const std::byte* read_512_first_level(const std::byte* data, const std::byte* end) {
  QUEST_READ_LOOP(
      "prefetcht0 16384(%0)\n prefetcht0 16448(%0)\n prefetcht0 16512(%0)\n"
      "prefetcht0 16576(%0)\n" QUEST_READ_512,
      "vzeroupper\n");
}
const std::byte* read_512_second_level(const std::byte* data, const std::byte* end) {
  QUEST_READ_LOOP(
      "prefetcht1 2048(%0)\n prefetcht1 2112(%0)\n prefetcht1 2176(%0)\n"
      "prefetcht1 2240(%0)\n" QUEST_READ_512,
      "vzeroupper\n");
}
const std::byte* read_256(const std::byte* data, const std::byte* end) {
  QUEST_READ_LOOP(
      "vmovaps (%0), %%ymm0\n vmovaps 32(%0), %%ymm1\n vmovaps 64(%0), %%ymm2\n"
      "vmovaps 96(%0), %%ymm3\n vmovaps 128(%0), %%ymm0\n vmovaps 160(%0), %%ymm1\n"
      "vmovaps 192(%0), %%ymm2\n vmovaps 224(%0), %%ymm3\n",
      "vzeroupper\n");
}

std::span<const Loop> loops() {
  static constexpr Loop kWide[] = {read_512, read_512_first_level, read_512_second_level};
  static constexpr Loop kHalf[] = {read_256};
  static constexpr Loop kOther[] = {read_lines};
  if (__builtin_cpu_supports("avx512f") != 0) return kWide;
  if (__builtin_cpu_supports("avx2") != 0) return kHalf;
  return kOther;
}

#else

std::span<const Loop> loops() {
  static constexpr Loop kLoops[] = {read_lines};
  return kLoops;
}

#endif

/// Share `share` of `shares` of whole lines.
void read_share(Loop loop, std::span<const std::byte> piece, int share, int shares) {
  const auto address = reinterpret_cast<std::uintptr_t>(piece.data());
  const std::size_t before = address % kLine;  // of its first line
  const std::size_t lines = (before + piece.size() + kLine - 1) / kLine;
  const auto edge = [&](int i) {
    return piece.data() - before +
           lines * static_cast<std::size_t>(i) / static_cast<std::size_t>(shares) * kLine;
  };
  read_lines(loop(edge(share), edge(share + 1)), edge(share + 1));
}

}  // namespace

std::size_t MemoryReads::ways() { return loops().size(); }

double MemoryReads::seconds(std::size_t way) const {
  const Loop loop = loops()[way];
  const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads_)
  for (const Piece piece : pieces_) {
    read_share(loop, piece, omp_get_thread_num(), omp_get_num_threads());
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double measure_read_rate(int threads, std::size_t bytes) {
  const std::size_t share = bytes / static_cast<std::size_t>(threads) / 4096 * 4096;
  if (share == 0) return 0.0;
  const std::size_t passes = std::max<std::size_t>(1, kReadBytes / share);
  const std::span data(static_cast<std::byte*>(allocate_host(bytes)), bytes);
  std::memset(data.data(), 1, bytes);
  double best = 0.0;
  for (const Loop loop : loops()) {
    const double seconds = fastest_run(threads, [&](int thread) {
      const auto piece = data.subspan(static_cast<std::size_t>(thread) * share, share);
      for (std::size_t pass = 0; pass < passes; ++pass) read_share(loop, piece, 0, 1);
    });
    best = std::max(best, 1e-9 * static_cast<double>(share * passes) * threads / seconds);
  }
  deallocate_host(data.data(), bytes);
  return best;
}

}  // namespace quest
