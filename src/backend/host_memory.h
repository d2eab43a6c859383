// Host memory and copies, shared by the backends that run on the host.
#pragma once

#include <cstddef>

#include "core/tensor.h"

namespace quest {

/// Zeroed memory aligned to 64 bytes; large blocks ask for transparent huge pages. Throws Error
/// that states the size when the system has no such memory.
void* allocate_host(std::size_t bytes);
void deallocate_host(void* data, std::size_t bytes) noexcept;

/// dst = src, same type and shape; either may be a column slice.
void copy_host(Tensor dst, Tensor src);
/// dst = 0; may be a column slice.
void zero_host(Tensor dst);

}  // namespace quest
