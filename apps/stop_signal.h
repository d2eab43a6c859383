// SIGINT and SIGTERM as a wish to stop at the next good moment.
#pragma once

#include <csignal>

namespace quest::app {

/// While one lives, the first SIGINT or SIGTERM is remembered instead of ending the program. One
/// that follows within a second counts as the same; a later one ends the program at once, for those
/// who cannot wait. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  bool requested() const;
  /// 130 for SIGINT, 143 for SIGTERM, as shells report them; 0 when there was none.
  int exit_code() const;

 private:
  struct sigaction old_interrupt_ = {}, old_terminate_ = {};
};

}  // namespace quest::app
