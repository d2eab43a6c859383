// The time of a loop on several threads: the best of several runs, so that other work on the
// machine disturbs little.
#pragma once

#include <omp.h>

#include <algorithm>
#include <chrono>

namespace quest {

/// Seconds of the fastest of several runs of body(thread) on all threads at once.
template <typename Body>
double fastest_run(int threads, const Body& body) {
  constexpr int kRuns = 9;
  double best = 1e30;
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    for (int run = 0; run < kRuns; ++run) {
#pragma omp barrier
      const auto start = std::chrono::steady_clock::now();
      body(thread);
#pragma omp barrier
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
#pragma omp single
      best = std::min(best, elapsed.count());
    }
  }
  return best;
}

}  // namespace quest
