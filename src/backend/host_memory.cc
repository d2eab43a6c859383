// Host memory by anonymous maps, so that zeroing costs nothing before first use.
#include "backend/host_memory.h"

#include <sys/mman.h>

#include <cassert>
#include <cstring>
#include <iterator>
#include <string>

#include "core/error.h"

namespace quest {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

std::string size_text(std::size_t bytes) {
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double size = static_cast<double>(bytes) / 1024;
  const char* const* unit = kUnits;
  for (; size >= 1024 && unit + 1 != std::end(kUnits); ++unit) size /= 1024;
  return fmt::format("{:.1f} {}", size, *unit);
}

}  // namespace

void* allocate_host(std::size_t bytes) {
  if (bytes == 0) bytes = 1;
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    fail(
        "out of memory: {} more are needed; train with a lower --batch-size or --seq-len, run with "
        "a lower --context or --batch, or take a smaller model",
        size_text(bytes));
  }
  if (bytes >= kHugePageBytes) ::madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}

void deallocate_host(void* data, std::size_t bytes) noexcept {
  if (data != nullptr) ::munmap(data, bytes == 0 ? 1 : bytes);
}

void copy_host(Tensor dst, Tensor src) {
  assert(dst.dtype == src.dtype && dst.shape == src.shape);
  const std::size_t element = size_bytes(dst.dtype);
  if (dst.is_contiguous() && src.is_contiguous()) {
    std::memcpy(dst.data, src.data, dst.bytes());
    return;
  }
  const std::size_t row_bytes = static_cast<std::size_t>(dst.cols()) * element;
  for (std::int64_t r = 0; r < dst.rows(); ++r) {
    std::memcpy(
        static_cast<std::byte*>(dst.data) + static_cast<std::size_t>(r * dst.row_stride) * element,
        static_cast<std::byte*>(src.data) + static_cast<std::size_t>(r * src.row_stride) * element,
        row_bytes);
  }
}

void zero_host(Tensor dst) {
  const std::size_t element = size_bytes(dst.dtype);
  if (dst.is_contiguous()) {
    std::memset(dst.data, 0, dst.bytes());
    return;
  }
  for (std::int64_t r = 0; r < dst.rows(); ++r) {
    std::memset(
        static_cast<std::byte*>(dst.data) + static_cast<std::size_t>(r * dst.row_stride) * element,
        0, static_cast<std::size_t>(dst.cols()) * element);
  }
}

}  // namespace quest
