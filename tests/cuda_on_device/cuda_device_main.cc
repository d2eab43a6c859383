// The CUDA backend under test on this machine's device; without one every test is skipped.
#include <gtest/gtest.h>

#include <cstdio>

#include "backend/backends_under_test.h"
#include "backend/cuda/make_cuda_backend.h"
#include "core/error.h"
#include "tests/cuda_kernels/kernel_runs.h"
#include "tests/cuda_kernels/whole_device.h"
#include "tests/staged_backend.h"

namespace quest {

std::vector<BackendUnderTest> backends_under_test() {
  return {{"device", [] { return make_staged_backend(make_cuda_backend(0)); }}};
}

void on_every_backend(const std::function<void(Backend&, const std::string&)>& body) {
  const auto backend = backends_under_test()[0].make();
  body(*backend, backend->name());
}

std::unique_ptr<Backend> cuda_backend() { return make_cuda_backend(0); }
void run_late(bool) {}
std::optional<DeviceCounts> device_counts() { return std::nullopt; }

std::vector<KernelRun> kernel_runs() {
  return {{"device", [] {}, [] {}}};
}

}  // namespace quest

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (!testing::GTEST_FLAG(list_tests)) {
    try {
      quest::make_cuda_backend(0);
    } catch (const quest::Error& error) {
      std::printf("SKIPPED: %s\n", error.what());
      return 77;
    }
  }
  return RUN_ALL_TESTS();
}
