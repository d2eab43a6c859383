// Readings of memory stay within its lines, however pieces lie.
#include "backend/cpu/peaks/memory_reads.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace quest {
namespace {

constexpr std::size_t kPage = 4096;

TEST(MemoryReads, StayWithinTheLinesOfTheirPieces) {
  // Two pages between two that may not be read.
  auto* const pages = static_cast<std::byte*>(
      ::mmap(nullptr, 4 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(pages, MAP_FAILED);
  ASSERT_EQ(::mprotect(pages + kPage, 2 * kPage, PROT_READ), 0);
  const std::byte* const begin = pages + kPage;
  const std::byte* const end = begin + 2 * kPage;
  const std::vector<MemoryReads::Piece> pieces = {{begin, end},     {begin, 1},      {end - 1, 1},
                                                  {end - 300, 300}, {begin + 60, 8}, {begin, 0}};
  for (const int threads : {1, 2, 5}) {
    const MemoryReads reads(threads, pieces);
    ASSERT_GE(MemoryReads::ways(), 1u);
    for (std::size_t way = 0; way < MemoryReads::ways(); ++way) {
      EXPECT_GT(reads.seconds(way), 0.0) << threads << " threads, way " << way;
    }
  }
  ::munmap(pages, 4 * kPage);
}

// Of five readings.
double fastest(const MemoryReads& reads, std::size_t way) {
  double best = reads.seconds(way);
  for (int i = 0; i < 4; ++i) best = std::min(best, reads.seconds(way));
  return best;
}

TEST(MemoryReads, MoreBytesTakeLonger) {
  const std::vector<std::byte> bytes(std::size_t{64} << 20, std::byte{1});
  const std::span all(bytes);
  const MemoryReads whole(1, {all}), part(1, {all.first(all.size() / 64)});
  for (std::size_t way = 0; way < MemoryReads::ways(); ++way) {
    EXPECT_GT(fastest(whole, way), 4 * fastest(part, way)) << "way " << way;
  }
}

// As where the system has fewer threads than were asked for: here a region within another has one.
TEST(MemoryReads, ThreadsThatAreNotGrantedLeaveNothingUnread) {
  const std::vector<std::byte> bytes(std::size_t{64} << 20, std::byte{1});
  const std::span all(bytes);
  const MemoryReads shared(64, {all}), part(1, {all.first(all.size() / 64)});
  omp_set_max_active_levels(1);
#pragma omp parallel num_threads(2)
#pragma omp single
  for (std::size_t way = 0; way < MemoryReads::ways(); ++way) {
    EXPECT_GT(fastest(shared, way), 4 * fastest(part, way)) << "way " << way;
  }
}

TEST(MemoryReads, ARateNeedsBytes) {
  EXPECT_EQ(measure_read_rate(4, 4096), 0.0);
  EXPECT_GT(measure_read_rate(1, 1 << 20), 0.1);
}

}  // namespace
}  // namespace quest
