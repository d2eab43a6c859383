// Progress on stderr: a bar that redraws itself on a terminal, plain lines elsewhere.
#include "apps/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "apps/text.h"

namespace quest::app {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr int kBarCells = 24;

double seconds(Progress::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

std::string bar(double fraction) {
  const int full = static_cast<int>(fraction * kBarCells);
  std::string cells(full, '=');
  if (full < kBarCells) cells += '>';
  cells.resize(kBarCells, ' ');
  return "[" + cells + "]";
}

// Cuts at a character of UTF-8, never inside one, so that a line cannot wrap.
std::string_view cut(std::string_view text, std::size_t columns) {
  std::size_t seen = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool starts_character = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (starts_character && seen++ == columns) return text.substr(0, i);
  }
  return text;
}

void put(std::FILE* stream, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stream);
  std::fflush(stream);
}

}  // namespace

Progress::Target Progress::detect() {
  Target target;
  const char* terminal = std::getenv("TERM");
  const bool dumb = terminal == nullptr || std::strcmp(terminal, "dumb") == 0;
  if (dumb || isatty(STDERR_FILENO) == 0) return target;
  winsize size = {};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  target.columns = known ? size.ws_col : 80;
  return target;
}

Progress::Progress(Target target) : target_(target) {}

Progress::~Progress() { finish(); }

void Progress::update(double fraction, std::string_view text, Clock::time_point now) {
  fraction_ = std::clamp(fraction, 0.0, 1.0);
  text_ = text;
  last_update_ = now;
  if (!started_) {
    started_ = true;
    start_ = now;
    start_fraction_ = fraction_;
    draw(now);
    return;
  }
  const double interval = target_.columns > 0 ? kRedrawSeconds : target_.plain_interval_s;
  if (seconds(now - last_draw_) >= interval) {
    draw(now);
  } else {
    skipped_ = true;
  }
}

void Progress::draw(Clock::time_point now) {
  last_draw_ = now;
  skipped_ = false;
  std::string left;
  const double done = fraction_ - start_fraction_;
  if (done > 0 && fraction_ < 1) {
    left = "  " + duration_text(seconds(now - start_) / done * (1 - fraction_)) + " left";
  }
  if (target_.columns <= 0) {
    put(target_.stream, fmt::format("{:3.0f}%  {}{}\n", 100 * fraction_, text_, left));
    return;
  }
  const std::string state =
      fmt::format("{} {:3.0f}%  {}{}", bar(fraction_), 100 * fraction_, text_, left);
  erase();
  put(target_.stream, cut(state, static_cast<std::size_t>(target_.columns) - 1));
  drawn_ = true;
}

void Progress::erase() {
  if (drawn_) put(target_.stream, "\r\x1b[K");
  drawn_ = false;
}

void Progress::line(std::string_view text) {
  const bool redraw = drawn_;
  erase();
  put(target_.stream, fmt::format("{}\n", text));
  if (redraw) draw(last_update_);
}

void Progress::finish() {
  if (skipped_) draw(last_update_);
  if (drawn_) put(target_.stream, "\n");
  drawn_ = false;
}

}  // namespace quest::app
