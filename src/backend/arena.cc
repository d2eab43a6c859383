// Arena: bump allocation and measuring.
#include "backend/arena.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace quest {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

Arena::Arena(Backend& backend, std::size_t capacity_bytes)
    : backend_(&backend),
      data_(static_cast<std::byte*>(backend.allocate(capacity_bytes))),
      capacity_bytes_(capacity_bytes) {}

Arena::~Arena() {
  if (data_ != nullptr) backend_->deallocate(data_, capacity_bytes_);
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(backend_, other.backend_);
  std::swap(data_, other.data_);
  std::swap(capacity_bytes_, other.capacity_bytes_);
  std::swap(used_bytes_, other.used_bytes_);
  std::swap(peak_bytes_, other.peak_bytes_);
  return *this;
}

Tensor Arena::take(Shape shape, DType dtype) {
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_bytes(dtype);
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::byte* const start = measuring() ? nullptr : data_ + used_bytes_;
  used_bytes_ += rounded;
  peak_bytes_ = std::max(peak_bytes_, used_bytes_);
  assert(measuring() || used_bytes_ <= capacity_bytes_);
  return Tensor(start, shape, dtype, measuring() ? Place::kHost : backend_->place());
}

Tensor Arena::flat_f32() const {
  return Tensor(data_, {static_cast<std::int64_t>(used_bytes_ / sizeof(float))}, DType::kF32,
                measuring() ? Place::kHost : backend_->place());
}

}  // namespace quest
