// SIGINT and SIGTERM as a wish to stop at the next good moment.
#include "apps/stop_signal.h"

#include <ctime>

namespace quest::app {
namespace {

// A key press may arrive twice, from the terminal and from a parent that passes it on.
constexpr std::time_t kRepeatSeconds = 1;

// A handler can reach nothing but statics of such types.
volatile std::sig_atomic_t received = 0;
volatile std::time_t received_at = 0;

std::time_t now_seconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

extern "C" void remember_signal(int number) {
  if (received == 0) {
    received = number;
    received_at = now_seconds();
  } else if (now_seconds() - received_at > kRepeatSeconds) {
    std::signal(number, SIG_DFL);
    std::raise(number);
  }
}

}  // namespace

StopSignal::StopSignal() {
  received = 0;
  struct sigaction action = {};
  action.sa_handler = remember_signal;
  action.sa_flags = SA_RESTART;  // system calls go on
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &old_interrupt_);
  sigaction(SIGTERM, &action, &old_terminate_);
}

StopSignal::~StopSignal() {
  sigaction(SIGINT, &old_interrupt_, nullptr);
  sigaction(SIGTERM, &old_terminate_, nullptr);
}

bool StopSignal::requested() const { return received != 0; }

int StopSignal::exit_code() const { return received == 0 ? 0 : 128 + received; }

}  // namespace quest::app
