// How long a few kernels take, by the clock of their device.
#pragma once

#include "backend/backend.h"

namespace quest {

/// Seconds of what run() asks of `backend`, from the end of all before to its own end; waits for
/// it. `stopwatch` is the backend's, and forgets its marks.
template <typename Run>
double timed_run(Backend& backend, Stopwatch& stopwatch, const Run& run) {
  stopwatch.clear();
  stopwatch.mark();
  run();
  stopwatch.mark();
  backend.synchronize();
  return stopwatch.seconds(0, 1);
}

}  // namespace quest
