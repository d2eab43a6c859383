// The backend that --device and --threads name.
#include "apps/backends.h"

#include "core/error.h"

namespace quest::app {

std::unique_ptr<Backend> make_backend(const std::string& device, std::int64_t threads) {
  if (device == "reference") return make_reference_backend();
  if (device == "cpu") return make_cpu_backend(static_cast<int>(threads));
  throw UsageError(fmt::format("there is no device '{}'; choose cpu or reference", device));
}

}  // namespace quest::app
