// The backends on which a test program runs the tests that kernels share; each program links one
// definition of them.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace quest {

/// One of them, for tests with a parameter.
struct BackendUnderTest {
  std::string name;  ///< of letters, digits and underscores
  std::function<std::unique_ptr<Backend>()> make;

  friend std::ostream& operator<<(std::ostream& out, const BackendUnderTest& backend) {
    return out << backend.name;
  }
};
std::vector<BackendUnderTest> backends_under_test();

/// Runs body(backend, label) on each. Tensors of the host are what a backend under test takes.
void on_every_backend(const std::function<void(Backend&, const std::string&)>& body);

}  // namespace quest
