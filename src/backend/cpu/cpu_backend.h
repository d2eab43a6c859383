// CpuBackend: host kernels on several threads, in the best instruction set that the CPU has.
#pragma once

#include "backend/reference/reference_backend.h"

namespace quest {

class CpuBackend : public ReferenceBackend {
 public:
  explicit CpuBackend(int threads);

  std::string name() const override { return "cpu"; }
  int threads() const override { return threads_; }

 private:
  int threads_;
};

}  // namespace quest
