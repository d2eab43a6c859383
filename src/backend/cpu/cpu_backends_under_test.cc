// The CPU's backends under test: every instruction set that the machine has.
#include <fmt/format.h>

#include "backend/backends_under_test.h"
#include "backend/cpu/cpu_backend.h"

namespace quest {

std::vector<BackendUnderTest> backends_under_test() {
  std::vector<BackendUnderTest> all;
  for (const Isa isa : available_isas()) {
    all.push_back(
        {std::string(isa_name(isa)), [isa] { return std::make_unique<CpuBackend>(2, isa); }});
  }
  return all;
}

// In the best instruction set also on 2 threads. oneDNN can be held to an instruction set once a
// process only, so it runs in the CPU's best in all of them; what differs is whether bf16 operands
// are widened first.
void on_every_backend(const std::function<void(Backend&, const std::string&)>& body) {
  for (const Isa isa : available_isas()) {
    for (int threads = 1; threads <= (isa == available_isas().back() ? 2 : 1); ++threads) {
      CpuBackend backend(threads, isa);
      body(backend, fmt::format("{} {} thread(s)", backend.name(), threads));
    }
  }
}

}  // namespace quest
