// What machine this is: from /proc, the system's calls and the choice of kernels.
#include "apps/machine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <omp.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>

#include "apps/text.h"
#include "backend/cpu/isa.h"

namespace quest::app {
namespace {

constexpr std::array<std::string_view, 13> kFlags = {
    "avx2",        "fma",         "f16c",        "avx_vnni",    "avx512f",
    "avx512bw",    "avx512_vnni", "avx512_bf16", "avx512_vbmi", "avx512_vpopcntdq",
    "avx512_fp16", "amx_bf16",    "amx_int8"};

// The text behind the first line that starts with `key`, without `separator`, blanks and quotes.
std::string value_in(const char* path, std::string_view key, char separator) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!std::string_view(line).starts_with(key)) continue;
    const std::size_t at = line.find(separator);
    if (at == std::string::npos) continue;
    const std::size_t begin = line.find_first_not_of(" \t\"", at + 1);
    const std::size_t end = line.find_last_not_of(" \t\"");
    return begin == std::string::npos ? "" : line.substr(begin, end + 1 - begin);
  }
  return "";
}

}  // namespace

Machine describe_machine() {
  Machine machine;
  machine.cpu = value_in("/proc/cpuinfo", "model name", ':');
  const std::vector<std::string> flags = split(value_in("/proc/cpuinfo", "flags", ':'), ' ');
  for (const std::string_view flag : kFlags) {
    if (std::find(flags.begin(), flags.end(), flag) != flags.end())
      machine.flags.emplace_back(flag);
  }
  for (const Isa isa : available_isas()) machine.isas.emplace_back(isa_name(isa));
  machine.threads = omp_get_max_threads();
  struct sysinfo memory {};
  if (::sysinfo(&memory) == 0) {
    machine.memory_bytes = static_cast<std::size_t>(memory.totalram) * memory.mem_unit;
  }
  machine.os = value_in("/etc/os-release", "PRETTY_NAME", '=');
  struct utsname names {};
  if (::uname(&names) == 0) {
    machine.kernel = fmt::format("{} {} {}", names.sysname, names.release, names.machine);
  }
  machine.version = QUEST_VERSION;
  return machine;
}

nlohmann::ordered_json to_json(const Machine& machine) {
  return {{"cpu", machine.cpu},
          {"flags", machine.flags},
          {"isas", machine.isas},
          {"threads", machine.threads},
          {"memory_bytes", machine.memory_bytes},
          {"os", machine.os},
          {"kernel", machine.kernel},
          {"version", machine.version}};
}

std::string to_text(const Machine& machine) {
  return fmt::format(
      "cpu       {}: {} threads, {}\n"
      "          {}\n"
      "kernels   {}\n"
      "system    {}, {}; quest {}\n",
      machine.cpu, machine.threads, size_text(static_cast<double>(machine.memory_bytes)),
      fmt::join(machine.flags, " "), fmt::join(machine.isas, ", "), machine.os, machine.kernel,
      machine.version);
}

}  // namespace quest::app
