// The backend that --device and --threads name.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"

namespace quest::app {

/// Throws UsageError where make_backend knows no device of that name; makes nothing.
void check_device(const std::string& device);

/// `device` is "cpu", "cuda" or "cuda:N" (the N-th GPU, counted from 0), or "reference"; `threads`
/// 0 takes all that the process may use. Throws Error.
std::unique_ptr<Backend> make_backend(const std::string& device, std::int64_t threads);

}  // namespace quest::app
