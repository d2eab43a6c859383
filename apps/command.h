// How a subcommand joins the program: one Command an apps/cmd_*.cc, listed in `all_commands`.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace quest::app {

/// Options in a CLI11 group whose name starts with this are shown by --help-all only.
inline const std::string kMoreGroup = "+";

/// What help says about a subcommand.
struct CommandText {
  std::string name;                   ///< "train", or "data synth" for one in a group.
  std::string summary;                ///< One line, no full stop.
  std::vector<std::string> examples;  ///< Two or three whole command lines.
};

/// One subcommand: arguments and wiring. Members that CLI11 fills live in the derived class.
class Command {
 public:
  virtual ~Command() = default;
  virtual CommandText text() const = 0;
  /// Adds this command's options to `app`.
  virtual void declare(CLI::App& app) = 0;
  /// Runs after parsing and returns the exit code. Throws Error; nothing here catches it.
  virtual int run() = 0;
};

/// Every subcommand, in the order of `quest --help`.
std::vector<std::unique_ptr<Command>> all_commands();

/// Parses the command line and runs the subcommand that it names; help and --version print to
/// stdout and return 0. Throws UsageError, and what the command throws.
int run_command_line(int argc, const char* const* argv,
                     const std::vector<std::unique_ptr<Command>>& commands);

}  // namespace quest::app
