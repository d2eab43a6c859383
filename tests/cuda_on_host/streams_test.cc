// That the emulation of streams and graphs shows the errors that real ones have: what is recorded
// does not run and keeps its arguments, what may not be captured fails, copies read late.
#include <gtest/gtest.h>

#include "backend/cuda/kernel_order.cuh"
#include "tests/cuda_kernels/kernel_runs.h"

namespace quest {
namespace {

__global__ void add(int* to, const int* amount, int more) {
  cuda::follow_last_kernel();
  *to += *amount + more;
}

class Streams : public ::testing::Test {
 protected:
  void SetUp() override { cudaStreamCreate(&stream_); }
  void TearDown() override {
    cuda_on_host::set_late(false);
    cudaStreamDestroy(stream_);
  }
  void launch_add(int more) {
    launch(Launch{"add", stream_, dim3(1), 1}, add, sum_.get(), amount_.get(), more);
  }
  void begin_capture() {
    ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  }
  int sum() const { return sum_.values()[0]; }

  cudaStream_t stream_ = nullptr;
  const DeviceArray<int> sum_{{0}}, amount_{{1}};
};

TEST_F(Streams, ARecordingRunsWhenItIsLaunchedWithTheArgumentsThatItWasGiven) {
  int more = 10;
  begin_capture();
  launch_add(more);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
  cudaGraphDestroy(graph);
  EXPECT_EQ(sum(), 0);
  more = 100;
  EXPECT_EQ(cudaGraphLaunch(exec, stream_), cudaSuccess);
  EXPECT_EQ(sum(), 11);
  const int two = 2;  // what lies in memory is read anew
  cudaMemcpyAsync(amount_.get(), &two, sizeof two, cudaMemcpyHostToDevice, stream_);
  EXPECT_EQ(cudaGraphLaunch(exec, stream_), cudaSuccess);
  EXPECT_EQ(sum(), 23);
  cudaGraphExecDestroy(exec);
}

TEST_F(Streams, WhatCannotBeCapturedFailsAndInvalidatesTheCapture) {
  void* data = nullptr;
  cudaEvent_t event = nullptr;
  float milliseconds = 0;
  cudaEventCreate(&event);
  const std::pair<std::function<cudaError_t()>, cudaError_t> kCalls[] = {
      {[&] { return cudaStreamSynchronize(stream_); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaMallocAsync(&data, 4, stream_); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaFreeAsync(sum_.get(), stream_); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaMallocHost(&data, 4); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaEventElapsedTime(&milliseconds, event, event); },
       cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaMemsetAsync(sum_.get(), 0, 4, nullptr); }, cudaErrorStreamCaptureImplicit},
  };
  for (const auto& [call, error] : kCalls) {
    begin_capture();
    EXPECT_EQ(call(), error);
    EXPECT_EQ(cudaMemsetAsync(sum_.get(), 0, 4, stream_), cudaErrorStreamCaptureInvalidated);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
  }
  begin_capture();
  EXPECT_EQ(cudaEventRecord(event, stream_), cudaSuccess);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  cudaGraphDestroy(graph);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, event, event), cudaErrorCapturedEvent);
  cudaEventDestroy(event);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeThreadLocal),
            cudaErrorStreamCaptureUnsupported);
}

TEST_F(Streams, LateCopiesReadPinnedMemoryWhenTheirTurnComes) {
  void* memory = nullptr;
  cudaMallocHost(&memory, sizeof(int));
  auto* const pinned = static_cast<int*>(memory);
  cuda_on_host::set_late(true);
  int pageable = *pinned = 5;
  cudaMemcpyAsync(amount_.get(), &pageable, sizeof(int), cudaMemcpyHostToDevice, stream_);
  launch_add(0);
  cudaMemcpyAsync(amount_.get(), pinned, sizeof(int), cudaMemcpyHostToDevice, stream_);
  launch_add(0);
  pageable = *pinned = 100;
  EXPECT_EQ(sum(), 105);
  cudaFreeHost(pinned);
}

}  // namespace
}  // namespace quest
