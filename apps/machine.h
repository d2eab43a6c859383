// What machine this is, as far as speeds and bug reports need to know.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace quest::app {

/// Texts are empty and numbers 0 where the system does not say.
struct Machine {
  std::string cpu;                 ///< "AMD EPYC 9755 128-Core Processor"
  std::vector<std::string> flags;  ///< of the instruction sets that kernels use: "avx512_vnni"
  std::vector<std::string> isas;   ///< kernels this machine can run, weakest first
  int threads = 0;                 ///< that this process may use
  std::size_t memory_bytes = 0;
  std::string os;       ///< "Debian GNU/Linux 12 (bookworm)"
  std::string kernel;   ///< "Linux 6.1.0 x86_64"
  std::string version;  ///< of this program
};

Machine describe_machine();

/// The same as an object with the members' names.
nlohmann::ordered_json to_json(const Machine& machine);
/// The same in four lines.
std::string to_text(const Machine& machine);

}  // namespace quest::app
