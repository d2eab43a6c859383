// CpuBackend: host kernels on several threads, in the best instruction set that the CPU has.
#pragma once

#include "backend/cpu/isa.h"
#include "backend/cpu/workspace.h"
#include "backend/reference/reference_backend.h"

namespace quest {

class CpuBackend : public ReferenceBackend {
 public:
  /// `threads` 0: all that the process may use.
  explicit CpuBackend(int threads, Isa isa = choose_isa());

  std::string name() const override;
  int threads() const override { return threads_; }
  Isa isa() const { return isa_; }
  /// Scratch memory that the kernels hold now; grows with the largest shapes that they have seen.
  std::size_t workspace_bytes() const { return workspace_.total_bytes(); }

 private:
  int threads_;
  Isa isa_;
  Workspace workspace_;
};

}  // namespace quest
