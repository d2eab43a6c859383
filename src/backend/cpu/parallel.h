// parallel_for and share_out: threads over a range, cut the same way every time or by turns.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "backend/cpu/team.h"

namespace quest {

/// How many parts parallel_for cuts `count` items into: at most `threads`, each of at least `grain`
/// items (one part when there are fewer).
inline int parallel_parts(int threads, std::int64_t count, std::int64_t grain) {
  const std::int64_t parts = count / std::max<std::int64_t>(grain, 1);
  return static_cast<int>(std::clamp<std::int64_t>(parts, 1, std::max(threads, 1)));
}

/// Quantized values below which a thread of its own does not pay.
constexpr std::int64_t kQuantizedPerThread = 1 << 13;
/// How many rows of `columns` quantized values are worth a thread. What follows on the codes of a
/// few rows cuts them by the same grain: a thread then reads what it wrote itself.
inline std::int64_t quantize_grain(std::int64_t columns) {
  return std::max<std::int64_t>(1, kQuantizedPerThread / std::max<std::int64_t>(columns, 1));
}

/// Calls run_part(part) for every part < parts, of which each thread has some, in the calling
/// thread's team or in an OpenMP region.
template <typename RunPart>
void run_parts(int parts, const RunPart& run_part) {
  if (Team* const team = Team::ready()) return team->for_each(parts, run_part);
#pragma omp parallel num_threads(parts)
  for (int part = omp_get_thread_num(); part < parts; part += omp_get_num_threads()) run_part(part);
}

/// Calls body(begin, end, part) for every part of [0, count), on up to `threads` threads; `grain`
/// is the number of items below which a thread of its own does not pay. The cut depends on the
/// arguments only, not on how many threads the system grants, and part < threads, so `part` may
/// index scratch memory. The body must not throw.
template <typename Body>
void parallel_for(int threads, std::int64_t count, std::int64_t grain, const Body& body) {
  if (count <= 0) return;
  const int parts = parallel_parts(threads, count, grain);
  if (parts == 1) {
    body(std::int64_t{0}, count, 0);
    return;
  }
  run_parts(parts, [&](int part) { body(count * part / parts, count * (part + 1) / parts, part); });
}

/// Calls body(item, thread) for every item; threads take the next one when they are free, so what
/// an item computes must not depend on its thread. The body must not throw.
template <typename Body>
void share_out(int threads, std::int64_t items, const Body& body) {
  std::atomic<std::int64_t> next{0};
  const auto take_items = [&](int thread) {
    for (std::int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
      body(item, thread);
    }
  };
  const int takers = parallel_parts(threads, items, 1);
  takers == 1 ? take_items(0) : run_parts(takers, take_items);
}

}  // namespace quest
