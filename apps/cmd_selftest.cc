// quest selftest: known answers on every backend and instruction set of this machine.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/backends.h"
#include "apps/command.h"
#include "apps/machine.h"
#include "apps/output.h"
#include "apps/selftest_checks.h"

namespace quest::app {
namespace {

class SelftestCommand : public Command {
 public:
  CommandText text() const override {
    return {"selftest",
            "Compute known answers with every kernel of this machine; attach it to a bug report",
            {"quest selftest", "quest selftest --json"}};
  }
  void declare(CLI::App& app) override {
    app.add_option("--device", device_, "check this one alone, also cuda or cuda:N")
        ->type_name("NAME");
    app.add_flag("--json", json_, "print one JSON object");
  }
  int run() override {
    // Nothing here may start threads before the last process has been forked.
    const std::vector<std::string> present = backends_here();
    const bool known = std::find(present.begin(), present.end(), device_) != present.end();
    if (!device_.empty() && !known) check_device(device_);
    std::string lines;
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    int failures = 0;
    for (const std::string& backend : device_.empty() ? present : std::vector{device_}) {
      for (const CheckResult& result : run_checks_apart(backend)) {
        lines += fmt::format("{}  {:<12}  {:<32}  {}\n", result.passed ? "PASS" : "FAIL", backend,
                             result.check, result.detail);
        list.push_back({{"backend", backend},
                        {"check", result.check},
                        {"passed", result.passed},
                        {"detail", result.detail}});
        if (!result.passed) ++failures;
      }
    }
    const Machine machine = describe_machine();
    if (json_) {
      Report report;
      report.add_json("machine", to_json(machine));
      report.add_json("passed", failures == 0);
      report.add_json("results", list);
      report.print(true);
    } else {
      print_out(to_text(machine) + lines +
                fmt::format("{} of {} checks passed\n", static_cast<int>(list.size()) - failures,
                            list.size()));
    }
    return failures == 0 ? 0 : 1;
  }

 private:
  std::string device_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_selftest_command() { return std::make_unique<SelftestCommand>(); }

}  // namespace quest::app
