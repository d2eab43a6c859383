// Device memory: allocation with an error that helps, and the workspace.
#include "backend/cuda/check.h"
#include "backend/cuda/workspace.h"

namespace quest::cuda {
namespace {

double gib(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

void* allocate_device(std::size_t bytes, cudaStream_t stream) {
  require_not_captured(stream, "an allocation");
  void* data = nullptr;
  const cudaError_t error = cudaMallocAsync(&data, bytes == 0 ? 1 : bytes, stream);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free_bytes = 0, total_bytes = 0;
    check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    fail(
        "out of memory on the device: {:.2f} GiB are asked for, {:.2f} of {:.2f} GiB are free; "
        "train with a lower --batch-size or --seq-len or with --recompute block, run with a lower "
        "--context or --batch, or take a smaller model",
        gib(bytes), gib(free_bytes), gib(total_bytes));
  }
  check_cuda(error, "cudaMallocAsync", "{} bytes", bytes);
  return data;
}

Workspace::~Workspace() {
  for (const Block& block : blocks_) {
    if (block.data != nullptr) cudaFreeAsync(block.data, stream_);
  }
}

void* Workspace::take_bytes(Slot slot, std::size_t bytes) {
  Block& block = blocks_[static_cast<std::size_t>(slot)];
  if (block.bytes < bytes) {
    if (block.data != nullptr) {
      check_cuda(cudaFreeAsync(block.data, stream_), "cudaFreeAsync");
      block = {};
    }
    block.data = allocate_device(bytes, stream_);
    block.bytes = bytes;
    ++growths_;
  }
  return block.data;
}

}  // namespace quest::cuda
