// Fuzzes the safetensors reader: any bytes are a file whose tensors can be read, or Error.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "core/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const int descriptor = ::memfd_create("safetensors_fuzz", MFD_CLOEXEC);
  if (descriptor < 0 || ::ftruncate(descriptor, 0) != 0 ||
      ::pwrite(descriptor, data, size, 0) != static_cast<ssize_t>(size)) {
    std::abort();
  }
  try {
    const quest::SafetensorsFile file("/proc/self/fd/" + std::to_string(descriptor));
    unsigned sum = 0;
    for (const auto& [name, tensor] : file.tensors()) {
      const auto* bytes = static_cast<const unsigned char*>(tensor.data);
      for (std::size_t i = 0; i < tensor.bytes(); ++i) sum += bytes[i];
      (void)tensor.shape.to_string();
    }
    volatile unsigned kept = sum;
    (void)kept;
    file.verify(true);
  } catch (const quest::Error&) {
  }
  return 0;
}
