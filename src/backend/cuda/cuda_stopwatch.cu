// Marks as events on the stream of the device.
#include <vector>

#include "backend/cuda/cuda_backend.h"

namespace quest {
namespace {

class EventStopwatch : public Stopwatch {
 public:
  explicit EventStopwatch(cudaStream_t stream) : stream_(stream) {}
  ~EventStopwatch() override {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }

  void mark() override {
    if (marks_ == events_.size()) {
      cudaEvent_t event = nullptr;
      check_cuda(cudaEventCreate(&event), "cudaEventCreate");
      events_.push_back(event);
    }
    check_cuda(cudaEventRecord(events_[marks_], stream_), "cudaEventRecord", "mark {}", marks_);
    ++marks_;
  }
  double seconds(std::size_t from, std::size_t to) const override {
    float milliseconds = 0.0f;
    check_cuda(cudaEventElapsedTime(&milliseconds, events_[from], events_[to]),
               "cudaEventElapsedTime", "marks {} and {}", from, to);
    return static_cast<double>(milliseconds) / 1000.0;
  }
  void clear() override { marks_ = 0; }

 private:
  cudaStream_t stream_;
  std::vector<cudaEvent_t> events_;  // made once, used by every run of marks
  std::size_t marks_ = 0;
};

}  // namespace

std::unique_ptr<Stopwatch> CudaBackend::make_stopwatch() {
  return std::make_unique<EventStopwatch>(stream_);
}

}  // namespace quest
