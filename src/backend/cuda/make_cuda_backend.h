// The CUDA backend's door: nothing of CUDA is seen from outside its folder.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace quest {

/// The backend on CUDA device `device`, counted from 0. Throws Error when this build has no CUDA
/// (see docs/cuda.md) or the machine has no such device.
std::unique_ptr<Backend> make_cuda_backend(int device);

}  // namespace quest
