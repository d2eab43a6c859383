// Detection of instruction sets, and the choice that QUEST_ISA makes.
#include "backend/cpu/isa.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "core/error.h"

namespace quest {
namespace {

std::optional<Isa> isa_from_name(std::string_view name) {
  for (const Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512}) {
    if (isa_name(isa) == name) return isa;
  }
  return std::nullopt;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return "generic";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "generic";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas{Isa::kGeneric};
#if defined(__x86_64__)
  // The compiler's check includes XGETBV: whether the operating system saves the wide registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("avx");
  if (avx2) isas.push_back(Isa::kAvx2);
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    isas.push_back(Isa::kAvx512);
  }
#endif
  return isas;
}

Isa choose_isa() {
  const std::vector<Isa> isas = available_isas();
  const char* const wanted = std::getenv("QUEST_ISA");
  if (wanted == nullptr || *wanted == '\0') return isas.back();
  const std::optional<Isa> isa = isa_from_name(wanted);
  if (!isa) {
    fail("the environment variable QUEST_ISA is '{}'; set it to generic, avx2 or avx512", wanted);
  }
  if (std::find(isas.begin(), isas.end(), *isa) == isas.end()) {
    fail(
        "the environment variable QUEST_ISA asks for {}, which this CPU lacks; the best it has "
        "is {}",
        wanted, isa_name(isas.back()));
  }
  return *isa;
}

}  // namespace quest
