// SIGINT and SIGTERM as a wish to stop at the next good moment.
#include "apps/stop_signal.h"

#include "train/run.h"

namespace quest::app {
namespace {

extern "C" void remember_signal(int number) { stop_signal = number; }

}  // namespace

StopSignal::StopSignal() {
  stop_signal = 0;
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

int exit_code_of_signal(int signal) { return signal == 0 ? 0 : 128 + signal; }

}  // namespace quest::app
