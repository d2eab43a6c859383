// Detection of instruction sets, and the choice that QUEST_ISA makes.
#include "backend/cpu/isa.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "core/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace quest {
namespace {

std::optional<Isa> isa_from_name(std::string_view name) {
  for (const Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa_name(isa) == name) return isa;
  }
  return std::nullopt;
}

#if defined(__x86_64__)
/// Whether the CPU multiplies tiles of bytes and of bf16 (all that do have VBMI), and the system
/// lets this process use tiles; it must be asked once, for their state makes what it saves of a
/// thread 8 KiB larger.
bool may_use_tiles() {
  static const bool may = [] {
    constexpr unsigned kBf16Bit = 1u << 22, kTileBit = 1u << 24, kInt8Bit = 1u << 25;
    constexpr unsigned kAll = kBf16Bit | kTileBit | kInt8Bit;
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    if ((d & kAll) != kAll || !__builtin_cpu_supports("avx512bf16") ||
        !__builtin_cpu_supports("avx512vbmi")) {
      return false;
    }
    return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return may;
}
#endif

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return "generic";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
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
    if (may_use_tiles()) isas.push_back(Isa::kAmx);
  }
#endif
  return isas;
}

bool made_by_amd() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd") != 0;
#else
  return false;
#endif
}

Isa choose_isa() {
  const std::vector<Isa> isas = available_isas();
  const char* const wanted = std::getenv("QUEST_ISA");
  if (wanted == nullptr || *wanted == '\0') return isas.back();
  const std::optional<Isa> isa = isa_from_name(wanted);
  if (!isa) {
    fail("the environment variable QUEST_ISA is '{}'; set it to generic, avx2, avx512 or amx",
         wanted);
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
