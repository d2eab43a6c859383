// The program: runs a subcommand, and is the only place that turns exceptions into exit codes.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>

#include "apps/command.h"
#include "apps/interrupted.h"
#include "apps/output.h"
#include "core/error.h"

namespace {

int report(const char* sentence, int exit_code) {
  std::fprintf(stderr, "quest: error: %s\n", sentence);
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace quest;
  try {
    app::prepare_streams();
    return app::run_command_line(argc, argv, app::all_commands());
  } catch (const app::OutputClosed&) {
    return 0;
  } catch (const app::Interrupted& interrupted) {
    std::fputs("quest: stopped; nothing was written\n", stderr);
    return interrupted.exit_code();
  } catch (const Error& error) {
    return report(error.what(), error.exit_code());
  } catch (const std::filesystem::filesystem_error& error) {
    const std::string path = error.path1().string();
    return report(("cannot use " + path + ": " + error.code().message()).c_str(), 1);
  } catch (const std::bad_alloc&) {
    return report("there is not enough memory; a smaller model, batch or sequence needs less", 1);
  } catch (const std::exception& error) {
    return report(error.what(), 1);
  }
}
