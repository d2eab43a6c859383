// The time of a loop on several threads: the best of several runs, so that other work on the
// machine disturbs little.
#pragma once

#include <omp.h>

#include <algorithm>
#include <chrono>

namespace quest {

/// Seconds of the fastest of several runs of body(0) .. body(threads - 1), at once as far as the
/// system grants so many threads.
template <typename Body>
double fastest_run(int threads, const Body& body) {
  constexpr int kRuns = 9;
  double best = 1e30;
#pragma omp parallel num_threads(threads)
  {
    for (int run = 0; run < kRuns; ++run) {
#pragma omp barrier
      const auto start = std::chrono::steady_clock::now();
      for (int i = omp_get_thread_num(); i < threads; i += omp_get_num_threads()) body(i);
#pragma omp barrier
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
#pragma omp single
      best = std::min(best, elapsed.count());
    }
  }
  return best;
}

}  // namespace quest
