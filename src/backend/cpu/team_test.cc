// Tests of loops on threads that stay together.
#include "backend/cpu/team.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/parallel.h"
#include "backend/kernel_cases.h"

namespace quest {
namespace {

// More members than many a machine has cores, so that some sleep while others work.
constexpr int kThreads = 4;

TEST(Team, EveryPartOfEveryLoopRunsOnceBeforeTheNextLoop) {
  std::vector<int> calls(11);
  Team::run(kThreads, [&] {
    // The parts change from loop to loop: members without one must not take that of a later loop.
    for (int loop = 0; loop < 3000; ++loop) {
      const int parts = 1 + loop * 7 % 11;
      std::fill(calls.begin(), calls.end(), 0);
      run_parts(parts, [&](int part) { ++calls[static_cast<std::size_t>(part)]; });
      for (int part = 0; part < 11; ++part) {
        ASSERT_EQ(calls[static_cast<std::size_t>(part)], part < parts ? 1 : 0)
            << "loop " << loop << ", part " << part << " of " << parts;
      }
    }
  });
}

TEST(Team, ALoopMayHaveAnyNumberOfParts) {
  std::atomic<int> calls = 0;
  Team::run(kThreads, [&] {
    for (int loop = 0; loop < 2; ++loop) run_parts(70000, [&](int) { ++calls; });
  });
  EXPECT_EQ(calls, 2 * 70000);
}

TEST(Team, MembersThatSleptAreWokenAndWaitedFor) {
  std::atomic<int> calls = 0;
  Team::run(kThreads, [&] {
    for (int loop = 0; loop < 3; ++loop) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      run_parts(kThreads, [&](int part) {
        // The first member then sleeps in its turn.
        if (part > 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        ++calls;
      });
      EXPECT_EQ(calls, (loop + 1) * kThreads);  // none was left behind
    }
  });
}

TEST(Team, ALoopRunsOnSeveralThreads) {
  int granted = 0;
#pragma omp parallel num_threads(kThreads)
#pragma omp single
  granted = omp_get_num_threads();
  if (granted == 1) GTEST_SKIP() << "the system grants one thread";
  std::vector<int> thread(kThreads, -1);
  Team::run(kThreads, [&] {
    run_parts(kThreads, [&](int part) {
      thread[static_cast<std::size_t>(part)] = omp_get_thread_num();
      // Members that have begun when the first one is done keep their shares.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    });
  });
  EXPECT_GT(std::set<int>(thread.begin(), thread.end()).size(), 1U);
}

TEST(Team, LoopsWithinLoopsRunAlone) {
  std::atomic<int> calls = 0;
  Team::run(kThreads, [&] {
    ASSERT_NE(Team::ready(), nullptr);
    run_parts(kThreads, [&](int) {
      EXPECT_EQ(Team::ready(), nullptr);
      parallel_for(kThreads, 10, 1, [&](std::int64_t begin, std::int64_t end, int) {
        calls += static_cast<int>(end - begin);
      });
      Team::run(kThreads, [&] { run_parts(3, [&](int) { ++calls; }); });
    });
    EXPECT_NE(Team::ready(), nullptr);
  });
  EXPECT_EQ(Team::ready(), nullptr);
  EXPECT_EQ(calls, kThreads * (10 + 3));
}

TEST(Team, ABodyWithinABodyUsesItsTeam) {
  Team::run(2, [] {
    if (omp_in_parallel() == 0) GTEST_SKIP() << "the system grants one thread";
    Team* const team = Team::ready();
    Team::run(2, [&] { EXPECT_EQ(Team::ready(), team); });
    EXPECT_EQ(Team::ready(), team);
  });
}

// Else the caller would leave a loop whose other threads still use what lies on its stack.
TEST(TeamDeathTest, APartThatThrowsEndsTheProgram) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto throwing = [](int part) {
    if (part == 0) throw std::runtime_error("a part's");
  };
  EXPECT_DEATH(Team::run(2, [&] { run_parts(2, throwing); }), "a part's");
}

TEST(Team, WhatABodyThrowsIsThrownAndTheNextTeamWorks) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_THROW(Team::run(kThreads, [] { throw std::runtime_error("the body's"); }),
                 std::runtime_error);
    EXPECT_EQ(Team::ready(), nullptr);
  }
  std::atomic<int> calls = 0;
  Team::run(kThreads, [&] { run_parts(9, [&](int) { ++calls; }); });
  EXPECT_EQ(calls, 9);
}

TEST(Team, ItemsThatAreSharedOutAreTakenOnce) {
  std::vector<int> calls(1000);
  Team::run(kThreads, [&] {
    share_out(kThreads, 1000, [&](std::int64_t item, int thread) {
      EXPECT_LT(thread, kThreads);
      ++calls[static_cast<std::size_t>(item)];
    });
  });
  EXPECT_EQ(std::count(calls.begin(), calls.end(), 1), 1000);
}

TEST(Team, ItemsAreSharedOutAmongThreads) {
  using Clock = std::chrono::steady_clock;
  std::atomic<int> begun = 0, alone = 0;
  Team::run(2, [&] {
    if (omp_in_parallel() == 0) GTEST_SKIP() << "the system grants one thread";
    share_out(2, 2, [&](std::int64_t, int) {
      ++begun;
      const auto end = Clock::now() + std::chrono::seconds(5);
      while (begun < 2 && Clock::now() < end) std::this_thread::yield();
      if (begun < 2) ++alone;
    });
  });
  EXPECT_EQ(alone, 0);
}

// Runs `body` of a backend's kernels in one recording, and tells of each run whether there was a
// team.
template <typename Body>
std::vector<bool> runs_in_teams(CpuBackend& backend, const Body& body) {
  const auto recording = backend.make_recording();
  std::vector<bool> teams;
  for (int run = 0; run < 3; ++run) {
    recording->run([&] {
      teams.push_back(Team::ready() != nullptr);
      body();
    });
  }
  return teams;
}

TEST(Team, RecordingsRunInTeamsUnlessTheyAskForProductsWithRegionsOfTheirOwn) {
  CpuBackend backend(2);
  const OwnedTensor x({64, 64}, DType::kF32), y({64, 64}, DType::kF32);
  EXPECT_EQ(runs_in_teams(backend, [&] { backend.copy(y, x); }),
            std::vector<bool>({false, true, true}));
  EXPECT_EQ(runs_in_teams(backend, [&] { backend.matmul(y, x, x, Write::kSet); }),
            std::vector<bool>({false, false, false}));
}

}  // namespace
}  // namespace quest
