// Interrupted: what a command throws that SIGINT or SIGTERM stopped before its work was whole.
#pragma once

#include <exception>

#include "apps/stop_signal.h"

namespace quest::app {

/// Unwinds a command, so that temporary files go, and becomes its exit code in main. It is no
/// quest::Error because nothing is wrong.
class Interrupted : public std::exception {
 public:
  explicit Interrupted(int exit_code) : exit_code_(exit_code) {}
  const char* what() const noexcept override { return "stopped by a signal"; }
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

/// Throws Interrupted when `signal` was received.
inline void throw_if_requested(const StopSignal& signal) {
  if (signal.requested()) throw Interrupted(signal.exit_code());
}

}  // namespace quest::app
