// CpuBackend: the device itself.
#include "backend/cpu/cpu_backend.h"

#include <omp.h>

#include <cassert>
#include <cstring>
#include <optional>

#include "backend/cpu/rows/float_rows.h"
#include "backend/cpu/team.h"
#include "backend/host_memory.h"

namespace quest {
namespace {

// Kernels that follow one another again and again run on threads that stay together, unless the
// first run asked for products of oneDNN, which has OpenMP regions of its own.
class TeamRecording : public Recording {
 public:
  TeamRecording(int threads, const OnednnProducts& products)
      : threads_(threads), products_(products) {}

  void run(const std::function<void()>& body) override {
    if (together_) return together_.value() ? Team::run(threads_, body) : body();
    const std::int64_t before = products_.runs();
    body();
    together_ = products_.runs() == before;
  }

 private:
  int threads_;
  const OnednnProducts& products_;
  std::optional<bool> together_;  // known after the first run
};

}  // namespace

CpuBackend::CpuBackend(int threads, Isa isa)
    : threads_(threads > 0 ? threads : omp_get_max_threads()),
      isa_(isa),
      float_kernels_(quest::float_kernels(isa)),
      products_(threads_, isa) {}

std::string CpuBackend::name() const { return "cpu " + std::string(isa_name(isa_)); }

std::unique_ptr<Recording> CpuBackend::make_recording() {
  return std::make_unique<TeamRecording>(threads_, products_);
}

void* CpuBackend::allocate(std::size_t bytes) { return allocate_host(bytes); }
void CpuBackend::deallocate(void* data, std::size_t bytes) noexcept {
  deallocate_host(data, bytes);
}

void CpuBackend::copy(Tensor dst, Tensor src) {
  assert(dst.dtype == src.dtype && dst.shape == src.shape);
  if (dst.is_contiguous() && src.is_contiguous()) {
    const auto bytes = static_cast<std::int64_t>(dst.bytes());
    parallel_for(threads_, bytes, kGrainBytes, [&](std::int64_t begin, std::int64_t end, int) {
      std::memcpy(static_cast<char*>(dst.data) + begin, static_cast<char*>(src.data) + begin,
                  static_cast<std::size_t>(end - begin));
    });
    return;
  }
  parallel_for(threads_, dst.rows(), row_grain(dst.cols()),
               [&](std::int64_t begin, std::int64_t end, int) {
                 copy_host(dst.rows_slice(begin, end), src.rows_slice(begin, end));
               });
}

void CpuBackend::zero(Tensor dst) {
  if (dst.is_contiguous()) {
    const auto bytes = static_cast<std::int64_t>(dst.bytes());
    parallel_for(threads_, bytes, kGrainBytes, [&](std::int64_t begin, std::int64_t end, int) {
      std::memset(static_cast<char*>(dst.data) + begin, 0, static_cast<std::size_t>(end - begin));
    });
    return;
  }
  parallel_for(
      threads_, dst.rows(), row_grain(dst.cols()),
      [&](std::int64_t begin, std::int64_t end, int) { zero_host(dst.rows_slice(begin, end)); });
}

void CpuBackend::cast(Tensor dst, Tensor src) { cast_rows(float_kernels_, dst, src, threads_); }

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  const Isa isa = choose_isa();
  hold_onednn_to(isa);
  return std::make_unique<CpuBackend>(threads, isa);
}

}  // namespace quest
