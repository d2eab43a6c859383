// Standard output: whole texts and results, with every failure of the stream noticed.
#include "apps/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

namespace quest::app {

void prepare_streams() {
  std::signal(SIGPIPE, SIG_IGN);
  // A write beyond `ulimit -f` then fails as one to a full disk does, and is cleaned up likewise.
  std::signal(SIGXFSZ, SIG_IGN);
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // open() returns the lowest free descriptor, which is the one found closed.
    if (fcntl(descriptor, F_GETFD) == -1 && open("/dev/null", O_RDWR) != descriptor) return;
  }
}

void print_out(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (written && std::fflush(stdout) == 0) return;
  const int reason = errno;
  // What stays in the buffer would only fail again at exit.
  std::clearerr(stdout);
  if (reason == EPIPE) throw OutputClosed();
  throw OutputError(fmt::format("cannot write to standard output: {}", std::strerror(reason)));
}

void say(std::string_view sentence) { fmt::print(stderr, "quest: {}\n", sentence); }

Report::Report()
    : object_(std::make_unique<nlohmann::ordered_json>(nlohmann::ordered_json::object())) {}
Report::~Report() = default;

void Report::add(const std::string& key, const nlohmann::ordered_json& value,
                 const std::string& label, const std::string& shown) {
  add_json(key, value);
  std::string text = shown;
  if (text.empty()) text = value.is_string() ? value.get<std::string>() : value.dump();
  add_text(label, text);
}

void Report::add_json(const std::string& key, const nlohmann::ordered_json& value) {
  (*object_)[key] = value;
}

void Report::add_text(const std::string& label, const std::string& shown) {
  rows_.push_back({label, shown});
}

void Report::print(bool as_json) const {
  if (as_json) {
    using Json = nlohmann::ordered_json;
    print_out(object_->dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    return;
  }
  std::size_t width = 0;
  for (const Row& row : rows_) width = std::max(width, row.label.size());
  std::string text;
  for (const Row& row : rows_) text += fmt::format("{:<{}}  {}\n", row.label, width, row.shown);
  print_out(text);
}

}  // namespace quest::app
