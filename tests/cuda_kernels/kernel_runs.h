// For tests that launch kernels themselves: how the test program runs them, and arrays in device
// memory.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "backend/cuda/check.h"

namespace quest {

/// On the host once for each order of threads, on a device once; each program links one definition.
/// `end` adds what the run itself found: matrix loads that met a bank twice.
struct KernelRun {
  std::string name;
  std::function<void()> begin, end;
};
std::vector<KernelRun> kernel_runs();

/// Runs body() in each way.
inline void on_every_kernel_run(const std::function<void()>& body) {
  for (const KernelRun& run : kernel_runs()) {
    SCOPED_TRACE(run.name);
    run.begin();
    body();
    run.end();
  }
}

/// Owns a copy of `values` on the device.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    void* data = nullptr;
    check_cuda(cudaMallocAsync(&data, size_ * sizeof(T), nullptr), "cudaMallocAsync");
    data_ = static_cast<T*>(data);
    check_cuda(
        cudaMemcpyAsync(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice, nullptr),
        "cudaMemcpyAsync");
  }
  ~DeviceArray() { cudaFreeAsync(data_, nullptr); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* get() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> values(size_);
    check_cuda(
        cudaMemcpyAsync(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost, nullptr),
        "cudaMemcpyAsync");
    check_cuda(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
    return values;
  }

 private:
  std::size_t size_;
  T* data_ = nullptr;
};

}  // namespace quest
