// The CUDA backend of a build without CUDA: it says so.
#include "backend/cuda/make_cuda_backend.h"
#include "core/error.h"

namespace quest {

std::unique_ptr<Backend> make_cuda_backend(int) {
  fail("this build has no CUDA backend; configure with --preset cuda, or use --device cpu");
}

}  // namespace quest
