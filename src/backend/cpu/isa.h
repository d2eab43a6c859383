// Isa: which instruction sets this CPU can run, and which one the kernels shall use.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace quest {

/// What a kernel file is compiled for, weakest first.
enum class Isa : std::uint8_t {
  kGeneric,  ///< what every CPU of the architecture has (x86-64: SSE2)
  kAvx2,     ///< AVX2, FMA, F16C
  kAvx512,   ///< AVX-512 F, BW, DQ, VL and VNNI
  kAmx,      ///< the same, AVX512_BF16, and AMX-TILE, -INT8 and -BF16
};

/// "generic", "avx2", "avx512", "amx".
std::string_view isa_name(Isa isa);
/// Those that this CPU and its operating system support, weakest first; never empty. The first call
/// asks the system for the memory that tiles need in every thread.
std::vector<Isa> available_isas();
/// Whether AMD made this CPU: some choices follow its cores, which were measured beside Intel's.
bool made_by_amd();
/// The strongest available one, or the one that the environment variable QUEST_ISA names. Throws
/// Error when that name is unknown or this CPU lacks it.
Isa choose_isa();

}  // namespace quest
