// Lets tests of kernels, whose tensors lie on the host, run on a device.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace quest {

/// A backend whose kernels copy their operands to `device`, run there, and copy the outputs back.
/// Views keep their strides, and tensors that share memory share it there, where the larger is an
/// earlier argument. That a kernel writes between the rows of its only output fails the test.
std::unique_ptr<Backend> make_staged_backend(std::unique_ptr<Backend> device);

}  // namespace quest
