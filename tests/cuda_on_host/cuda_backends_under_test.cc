// The CUDA backend under test on the host: threads forwards and backwards, with the library's
// products and without, on a device with warpgroups and on one without.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include "backend/backends_under_test.h"
#include "backend/cuda/make_cuda_backend.h"
#include "backend/cuda/tensor_core.cuh"
#include "tests/cuda_kernels/kernel_runs.h"
#include "tests/cuda_kernels/whole_device.h"
#include "tests/staged_backend.h"

namespace quest {
namespace {

std::unique_ptr<Backend> make(cuda_on_host::Order order, bool library) {
  cuda_on_host::set_order(order);
  cuda_on_host::set_library_products(library);
  cuda_on_host::set_capability(library ? 9 : 8, library ? 0 : 6);
  return make_cuda_backend(0);
}
std::unique_ptr<Backend> make_staged(cuda_on_host::Order order, bool library) {
  return make_staged_backend(make(order, library));
}

}  // namespace

std::vector<BackendUnderTest> backends_under_test() {
  using cuda_on_host::Order;
  return {{"forwards", [] { return make_staged(Order::kForwards, true); }},
          {"backwards", [] { return make_staged(Order::kBackwards, false); }}};
}

std::unique_ptr<Backend> cuda_backend() { return make(cuda_on_host::Order::kForwards, true); }
void run_late(bool late) { cuda_on_host::set_late(late); }
std::optional<DeviceCounts> device_counts() {
  return DeviceCounts{cuda_on_host::count_graph_launches(), cuda_on_host::count_waits()};
}

std::vector<KernelRun> kernel_runs() {
  using cuda_on_host::Order;
  const auto run = [](const char* name, Order order) {
    return KernelRun{name,
                     [order] {
                       cuda_on_host::set_order(order);
                       cuda_on_host::set_capability(9, 0);
                       cuda_on_host::take_matrix_loads();
                     },
                     [] { EXPECT_EQ(cuda_on_host::take_matrix_loads().conflicting, 0); }};
  };
  return {run("forwards", Order::kForwards), run("backwards", Order::kBackwards)};
}

void on_every_backend(const std::function<void(Backend&, const std::string&)>& body) {
  for (const BackendUnderTest& backend : backends_under_test()) {
    body(*backend.make(), "cuda on the host, threads " + backend.name);
  }
}

}  // namespace quest
