// Progress on stderr: a bar that redraws itself on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>

namespace quest::app {

/// Shows how far a long job is. On a terminal one line is redrawn at most ten times a second;
/// elsewhere (a file, a pipe) a line is printed at most every `plain_interval_s` seconds. The first
/// and the last state are always shown. Failures to write are ignored: progress is not a result.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  /// What to draw into; `columns` 0 means plain lines.
  struct Target {
    std::FILE* stream = stderr;
    int columns = 0;
    double plain_interval_s = 5;
  };
  /// stderr as it is now: its width if it is a terminal that can move the cursor, else plain.
  static Target detect();

  explicit Progress(Target target = detect());
  /// Ends the bar's line, so that an error message starts on a fresh one.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows `fraction` (0 to 1) and `text`. The time left is estimated from `start_fraction`, the
  /// fraction of the first call, so that resumed jobs are judged by their own speed.
  void update(double fraction, std::string_view text, Clock::time_point now = Clock::now());

  /// Prints `text` as a line of its own, above the bar.
  void line(std::string_view text);

  /// Shows the last state if it was skipped, and ends the line.
  void finish();

 private:
  void draw(Clock::time_point now);
  void erase();

  Target target_;
  bool started_ = false, drawn_ = false, skipped_ = false;
  double start_fraction_ = 0, fraction_ = 0;
  std::string text_;
  Clock::time_point start_, last_draw_, last_update_;
};

}  // namespace quest::app
