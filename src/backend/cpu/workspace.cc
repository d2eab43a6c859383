// Workspace: growth of its buffers.
#include "backend/cpu/workspace.h"

#include "backend/host_memory.h"

namespace quest {

Workspace::~Workspace() {
  for (const Buffer& buffer : buffers_) deallocate_host(buffer.data, buffer.bytes);
}

std::byte* Workspace::bytes(Slot slot, std::size_t bytes) {
  Buffer& buffer = buffers_[static_cast<std::size_t>(slot)];
  if (bytes > buffer.bytes || buffer.data == nullptr) {
    deallocate_host(buffer.data, buffer.bytes);
    buffer = {};
    buffer.data = static_cast<std::byte*>(allocate_host(bytes));
    buffer.bytes = bytes;
  }
  return buffer.data;
}

Tensor Workspace::tensor(Slot slot, Shape shape, DType dtype) {
  const std::size_t wanted = static_cast<std::size_t>(shape.numel()) * size_bytes(dtype);
  return Tensor(bytes(slot, wanted), shape, dtype);
}

std::size_t Workspace::total_bytes() const {
  std::size_t total = 0;
  for (const Buffer& buffer : buffers_) total += buffer.bytes;
  return total;
}

}  // namespace quest
