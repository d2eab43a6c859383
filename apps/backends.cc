// The backend that --device and --threads name.
#include "apps/backends.h"

#include <charconv>
#include <optional>
#include <string_view>

#include "backend/cuda/make_cuda_backend.h"
#include "core/error.h"

namespace quest::app {
namespace {

// N of "cuda:N", 0 of "cuda"; none of anything else.
std::optional<int> cuda_device(std::string_view name) {
  if (name == "cuda") return 0;
  if (!name.starts_with("cuda:")) return std::nullopt;
  name.remove_prefix(5);
  int device = 0;
  const char* const end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, device);
  if (error != std::errc() || stop != end || device < 0) return std::nullopt;
  return device;
}

}  // namespace

void check_device(const std::string& device) {
  if (device == "cpu" || device == "reference" || cuda_device(device)) return;
  throw UsageError(
      fmt::format("there is no device '{}'; choose cpu, cuda, cuda:N or reference", device));
}

std::unique_ptr<Backend> make_backend(const std::string& device, std::int64_t threads) {
  check_device(device);
  if (device == "reference") return make_reference_backend();
  if (device == "cpu") return make_cpu_backend(static_cast<int>(threads));
  return make_cuda_backend(*cuda_device(device));
}

}  // namespace quest::app
