// Fuzzes the config reader: any bytes are settings that print and read back the same, or
// UsageError.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "apps/settings.h"
#include "core/error.h"

namespace {

std::vector<quest::app::Assignment> no_preset(const std::string&) { return {}; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quest::app;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  TrainSettings settings;
  try {
    SettingSources sources;
    sources.config_file = parse_config(text, "fuzz.toml");
    settings = resolve_settings(sources, no_preset);
  } catch (const quest::UsageError&) {
    return 0;
  }
  SettingSources printed;
  printed.config_file = parse_config(print_config(settings), "printed.toml");
  if (!(resolve_settings(printed, no_preset) == settings)) std::abort();
  return 0;
}
