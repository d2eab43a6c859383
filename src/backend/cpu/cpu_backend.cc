// CpuBackend: the device itself.
#include "backend/cpu/cpu_backend.h"

#include <omp.h>

namespace quest {

CpuBackend::CpuBackend(int threads, Isa isa)
    : threads_(threads > 0 ? threads : omp_get_max_threads()), isa_(isa) {}

std::string CpuBackend::name() const { return "cpu " + std::string(isa_name(isa_)); }

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  return std::make_unique<CpuBackend>(threads);
}

}  // namespace quest
