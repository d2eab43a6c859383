// Known answers: small computations whose results are the same on every machine.
#pragma once

#include <string>
#include <vector>

#include "backend/backend.h"

namespace quest::app {

/// What one check found.
struct CheckResult {
  std::string check;  ///< "codes and masks of 1 to 8 bits"
  bool passed = false;
  std::string detail;  ///< what was measured, or what went wrong
};

/// All checks on one backend. An exception in a check is its failure.
std::vector<CheckResult> run_checks(Backend& backend);

/// Runs the checks of the backend called "reference", "cpu <instruction set>" or as --device names
/// it in a process of its own, so that one that dies (an illegal instruction) is a failure like any
/// other.
std::vector<CheckResult> run_checks_apart(const std::string& backend);

/// The names of all backends of this machine.
std::vector<std::string> backends_here();

}  // namespace quest::app
