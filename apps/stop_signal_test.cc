// Tests of stop signals: the first waits, the second does not.
#include "apps/stop_signal.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <thread>

namespace quest::app {
namespace {

TEST(StopSignal, TheFirstSignalIsRememberedWithItsExitCode) {
  {
    const StopSignal stop;
    EXPECT_FALSE(stop.requested());
    EXPECT_EQ(stop.exit_code(), 0);
    std::raise(SIGTERM);
    EXPECT_TRUE(stop.requested());
    EXPECT_EQ(stop.exit_code(), 143);
  }
  const StopSignal next;
  EXPECT_FALSE(next.requested());
  std::raise(SIGINT);
  EXPECT_EQ(next.exit_code(), 130);
}

TEST(StopSignal, AnEchoOfTheFirstSignalIsNotASecondOne) {
  const StopSignal stop;
  std::raise(SIGINT);
  std::raise(SIGINT);
  EXPECT_EQ(stop.exit_code(), 130);
}

TEST(StopSignalDeathTest, TheSecondSignalEndsTheProgram) {
  const auto raise_twice = [] {
    const StopSignal stop;
    std::raise(SIGINT);
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));
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
