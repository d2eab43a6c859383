// Tests of progress: what reaches the stream, on a terminal and elsewhere.
#include "apps/progress.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace quest::app {
namespace {

using namespace std::chrono_literals;

class Captured {
 public:
  Captured() : stream_(std::tmpfile(), &std::fclose) {}
  std::FILE* stream() { return stream_.get(); }
  std::string text() {
    std::string text(static_cast<std::size_t>(std::ftell(stream())), '\0');
    std::rewind(stream());
    text.resize(std::fread(text.data(), 1, text.size(), stream()));
    return text;
  }

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream_;
};

TEST(Progress, PlainLinesAreSparseButNeverLoseTheFirstAndTheLast) {
  Captured captured;
  const Progress::Clock::time_point start{};
  {
    Progress progress({captured.stream(), 0, 5});
    for (int second = 0; second <= 12; ++second) {
      progress.update(second / 12.0, "step " + std::to_string(second), start + second * 1s);
    }
  }
  EXPECT_EQ(captured.text(),
            "  0%  step 0\n"
            " 42%  step 5  7 s left\n"
            " 83%  step 10  2 s left\n"
            "100%  step 12\n");
}

TEST(Progress, TheTimeLeftOfAResumedJobIgnoresWhatWasDoneBefore) {
  Captured captured;
  const Progress::Clock::time_point start{};
  {
    Progress progress({captured.stream(), 0, 1});
    progress.update(0.5, "a", start);
    progress.update(0.6, "b", start + 10s);
  }
  EXPECT_EQ(captured.text(), " 50%  a\n 60%  b  40 s left\n");
}

TEST(Progress, ABarIsRedrawnInPlaceAndFitsTheTerminal) {
  Captured captured;
  const Progress::Clock::time_point start{};
  {
    Progress progress({captured.stream(), 40, 5});
    progress.update(0, "ä very long state that would wrap around", start);
    progress.update(1, "done", start + 1s);
  }
  EXPECT_EQ(
      captured.text(),
      "[>                       ]   0%  ä very\r\x1b[K[========================] 100%  done\n");
}

TEST(Progress, ALineStandsAboveTheBar) {
  Captured captured;
  {
    Progress progress({captured.stream(), 80, 5});
    progress.update(0, "x");
    progress.line("saved");
  }
  const std::string bar = "[>                       ]   0%  x";
  EXPECT_EQ(captured.text(), bar + "\r\x1b[Ksaved\n" + bar + "\n");
}

TEST(Progress, NothingIsPrintedForAJobThatNeverStarted) {
  Captured captured;
  { Progress progress({captured.stream(), 80, 5}); }
  EXPECT_EQ(captured.text(), "");
}

}  // namespace
}  // namespace quest::app
