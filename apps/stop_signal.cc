// SIGINT and SIGTERM as a wish to stop at the next good moment.
#include "apps/stop_signal.h"

namespace quest::app {
namespace {

// A handler can reach nothing but a static of this type.
volatile std::sig_atomic_t received = 0;

extern "C" void remember_signal(int number) { received = number; }

}  // namespace

StopSignal::StopSignal() {
  received = 0;
  struct sigaction action = {};
  action.sa_handler = remember_signal;
  // System calls go on; afterwards the signal has its default effect again.
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
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
