// Tests of stop signals: the first waits, the second does not.
#include "apps/stop_signal.h"

#include <gtest/gtest.h>

#include <csignal>

#include "train/run.h"

namespace quest::app {
namespace {

TEST(StopSignal, TheFirstSignalReachesTheRunAndGivesItsExitCode) {
  {
    const StopSignal stop;
    EXPECT_EQ(stop_signal, 0);
    EXPECT_EQ(exit_code_of_signal(stop_signal), 0);
    std::raise(SIGTERM);
    EXPECT_EQ(exit_code_of_signal(stop_signal), 143);
  }
  const StopSignal next;
  EXPECT_EQ(stop_signal, 0);
  std::raise(SIGINT);
  EXPECT_EQ(exit_code_of_signal(stop_signal), 130);
}

TEST(StopSignalDeathTest, TheSecondSignalEndsTheProgram) {
  const auto raise_twice = [] {
    const StopSignal stop;
    std::raise(SIGINT);
    std::raise(SIGINT);
  };
  EXPECT_EXIT(raise_twice(), testing::KilledBySignal(SIGINT), "");
}

TEST(StopSignalDeathTest, AfterItsLifeSignalsAreAsBefore) {
  const auto raise_after = [] {
    { const StopSignal stop; }
    std::raise(SIGTERM);
  };
  EXPECT_EXIT(raise_after(), testing::KilledBySignal(SIGTERM), "");
}

}  // namespace
}  // namespace quest::app
