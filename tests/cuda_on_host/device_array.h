// Arrays in device memory, for tests that launch kernels themselves.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "backend/cuda/check.h"

namespace quest {

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
    return values;
  }

 private:
  std::size_t size_;
  T* data_ = nullptr;
};

}  // namespace quest
