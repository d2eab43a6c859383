// The exceptions of quest.cpp: a wrong world is reported, wrong code is asserted.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace quest {

/// A wrong file, flag, shape or device. The text says what is wrong, where, and what to do; the
/// command line prints it after "quest: error: " and exits with `exit_code()`.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, int exit_code = 1)
      : std::runtime_error(message), exit_code_(exit_code) {}

  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

/// A command that was typed wrongly (exit code 2).
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(message, 2) {}
};

/// A loss, gradient or weight that is NaN or infinite (exit code 3).
class NonFiniteError : public Error {
 public:
  explicit NonFiniteError(const std::string& message) : Error(message, 3) {}
};

/// Throws Error with a formatted text.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace quest
