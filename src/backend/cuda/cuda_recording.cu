// Recordings as CUDA graphs: the first run calls the body, the second captures it, later ones
// replay.
#include <cstdlib>
#include <optional>
#include <string_view>

#include "backend/cuda/cuda_backend.h"

namespace quest {
namespace {

class GraphRecording : public Recording {
 public:
  GraphRecording(cudaStream_t stream, const cuda::Workspace& workspace)
      : stream_(stream), workspace_(workspace) {}
  ~GraphRecording() override { forget(); }

  void run(const std::function<void()>& body) override {
    // What was captured names the workspace's memory; and a capture may not be the first to ask for
    // memory or for the algorithm of a product.
    if (growths_ != workspace_.growths()) {
      forget();
      body();
      growths_ = workspace_.growths();
      return;
    }
    if (exec_ == nullptr) capture(body);
    check_cuda(cudaGraphLaunch(exec_, stream_), "cudaGraphLaunch");
  }
  bool replays() const override { return true; }

 private:
  void capture(const std::function<void()>& body) {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
               "cudaStreamBeginCapture");
    try {
      body();
    } catch (...) {
      if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check_cuda(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    const cudaError_t error = cudaGraphInstantiate(&exec_, graph, 0);
    cudaGraphDestroy(graph);
    if (error != cudaSuccess) exec_ = nullptr;
    check_cuda(error, "cudaGraphInstantiate");
  }

  void forget() {
    if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
    exec_ = nullptr;
  }

  cudaStream_t stream_;
  const cuda::Workspace& workspace_;
  std::optional<std::size_t> growths_;  // of the workspace when body last ran or was captured
  cudaGraphExec_t exec_ = nullptr;
};

bool wants_graphs() {
  const char* const value = std::getenv("QUEST_CUDA_GRAPHS");
  if (value == nullptr || std::string_view(value) == "on") return true;
  if (std::string_view(value) == "off") return false;
  fail("QUEST_CUDA_GRAPHS is '{}'; it may be on or off", value);
}

}  // namespace

std::unique_ptr<Recording> CudaBackend::make_recording() {
  if (!wants_graphs()) return Backend::make_recording();
  return std::make_unique<GraphRecording>(stream_, workspace_);
}

}  // namespace quest
