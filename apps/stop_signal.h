// SIGINT and SIGTERM as a wish to stop at the next good moment.
#pragma once

#include <csignal>

namespace quest::app {

/// While one lives, the first SIGINT or SIGTERM sets `quest::stop_signal` (train/run.h), on which a
/// run finishes its step, saves and returns, instead of ending the program; a
/// second of the same kind ends it at once, for those who cannot wait. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

 private:
  struct sigaction old_interrupt_ = {}, old_terminate_ = {};
};

/// 130 for SIGINT, 143 for SIGTERM, as shells report them; 0 for no signal.
int exit_code_of_signal(int signal);

}  // namespace quest::app
