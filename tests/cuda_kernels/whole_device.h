// For tests of whole passes and steps on the CUDA backend: the backend, and what the test program
// knows of the device. Each program links one definition.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "backend/backend.h"

namespace quest {

/// The backend itself, whose tensors lie on the device.
std::unique_ptr<Backend> cuda_backend();

/// From now on (not) what the device is asked for runs as late as it may, where it can be told so.
void run_late(bool late);

/// How often graphs were launched and the host has waited; none where nobody counts.
struct DeviceCounts {
  std::uint64_t graph_launches, waits;
};
std::optional<DeviceCounts> device_counts();

}  // namespace quest
