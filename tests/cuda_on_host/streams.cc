// Streams on the host: what they are asked for runs at once, when they are waited for, or is
// recorded and run by a graph; and events, which are a time, and whether the stream has been waited
// for since.
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace {

using Operations = std::vector<std::function<void()>>;

// The stream that is being captured, of which there is one at most.
struct Capture {
  cudaStream_t stream = nullptr;
  bool invalidated = false;
  Operations operations;
};

std::uint64_t waits = 0;
std::uint64_t graph_launches = 0;
bool late = false;
Operations pending;  // of all streams: those under test have one each
Capture capture;

void run(const Operations& operations) {
  for (const auto& operation : operations) operation();
}
void run_pending() { run(std::exchange(pending, {})); }

cudaError_t invalidate(cudaError_t error) {
  capture.invalidated = true;
  return error;
}

}  // namespace

struct CudaOnHostStream {};
struct CudaOnHostGraph {
  Operations operations;
};
struct CudaOnHostGraphExec {
  std::shared_ptr<const Operations> operations;
};
struct CudaOnHostEvent {
  std::chrono::steady_clock::time_point time;
  std::uint64_t waits;  // of the stream, before it was recorded
  bool captured;
};

namespace cuda_on_host {

void set_late(bool wanted) {
  run_pending();
  late = wanted;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> operation) {
  if (capture.stream == nullptr) {
    if (late) {
      pending.push_back(std::move(operation));
    } else {
      operation();
    }
    return cudaSuccess;
  }
  if (capture.invalidated) return cudaErrorStreamCaptureInvalidated;
  if (stream != capture.stream) return invalidate(cudaErrorStreamCaptureImplicit);
  capture.operations.push_back(std::move(operation));
  return cudaSuccess;
}

cudaError_t outside_capture() {
  if (capture.stream == nullptr) return cudaSuccess;
  return invalidate(cudaErrorStreamCaptureUnsupported);
}

cudaError_t wait() {
  const cudaError_t error = outside_capture();
  if (error != cudaSuccess) return error;
  run_pending();
  ++waits;
  return cudaSuccess;
}

std::uint64_t count_waits() { return waits; }
std::uint64_t count_graph_launches() { return graph_launches; }

}  // namespace cuda_on_host

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new CudaOnHostStream;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  run_pending();
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cuda_on_host::wait(); }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;
  if (capture.stream != nullptr) return cudaErrorIllegalState;
  capture = {stream, false, {}};
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (stream != capture.stream) return cudaErrorIllegalState;
  const Capture done = std::exchange(capture, {});
  if (done.invalidated) return cudaErrorStreamCaptureInvalidated;
  *graph = new CudaOnHostGraph{done.operations};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream == nullptr || stream != capture.stream ? cudaStreamCaptureStatusNone
            : capture.invalidated                         ? cudaStreamCaptureStatusInvalidated
                                                          : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CudaOnHostGraphExec{std::make_shared<const Operations>(graph->operations)};
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const cudaError_t error = cuda_on_host::outside_capture();
  if (error != cudaSuccess) return error;
  ++graph_launches;
  return cuda_on_host::enqueue(stream, [operations = exec->operations] { run(*operations); });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CudaOnHostEvent{};
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *event = {std::chrono::steady_clock::now(), waits, capture.stream != nullptr};
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const cudaError_t error = cuda_on_host::outside_capture();
  if (error != cudaSuccess) return error;
  if (from->captured || to->captured) return cudaErrorCapturedEvent;
  if (from->waits == waits || to->waits == waits) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return cudaSuccess;
}
