// Loops of nothing but one instruction, in assembly so that no compiler improves on them.
#include "backend/cpu/peaks/peaks.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/cpu/peaks/fastest_run.h"
#include "backend/cpu/peaks/memory_reads.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace quest {
namespace {

constexpr std::size_t kCacheBytes = std::size_t{512} << 10;
constexpr std::size_t kSharedCacheBytes = std::size_t{8} << 20;
constexpr std::size_t kMemoryBytes = std::size_t{256} << 20;

#if defined(__x86_64__)

#define QUEST_TIMES_12(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define QUEST_TIMES_24(DO) \
  QUEST_TIMES_12(DO)       \
  DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#define QUEST_LOW_REGISTERS                                                                \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define QUEST_HIGH_REGISTERS                                                                \
  "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", \
      "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31"
// Zeroes what it computes with, runs TEXT `loops` times, then END (VZEROUPPER after wide registers,
// or the SSE code that follows slows down).
#define QUEST_LOOP(ZERO, TEXT, END, ...) \
  asm volatile(ZERO "1:\n" TEXT "dec %0\n jnz 1b\n" END : "+r"(loops) : : "cc", __VA_ARGS__)

#define QUEST_ZERO_512(i) "vpxorq %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n"
#define QUEST_ZERO_256(i) "vpxor %%ymm" #i ", %%ymm" #i ", %%ymm" #i "\n"
#define QUEST_ZERO_128(i) "pxor %%xmm" #i ", %%xmm" #i "\n"
#define QUEST_ALL_ZERO_512 QUEST_TIMES_24(QUEST_ZERO_512) QUEST_ZERO_512(30) QUEST_ZERO_512(31)
#define QUEST_ALL_ZERO_256 QUEST_TIMES_12(QUEST_ZERO_256) QUEST_ZERO_256(14) QUEST_ZERO_256(15)
#define QUEST_ALL_ZERO_128 QUEST_TIMES_12(QUEST_ZERO_128) QUEST_ZERO_128(14) QUEST_ZERO_128(15)

#define QUEST_FMA_512(i) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #i "\n"
#define QUEST_BF16_512(i) "vdpbf16ps %%zmm30, %%zmm31, %%zmm" #i "\n"
#define QUEST_VNNI_512(i) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #i "\n"
#define QUEST_BITS_512(i)              \
  "vpxorq %%zmm30, %%zmm31, %%zmm29\n" \
  "vpopcntq %%zmm29, %%zmm28\n"        \
  "vpaddq %%zmm28, %%zmm" #i ", %%zmm" #i "\n"
#define QUEST_FMA_256(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n"
#define QUEST_PAIRS_256(i)               \
  "vpmaddwd %%ymm14, %%ymm15, %%ymm13\n" \
  "vpaddd %%ymm13, %%ymm" #i ", %%ymm" #i "\n"
#define QUEST_MUL_ADD_128(i)  \
  "movaps %%xmm14, %%xmm13\n" \
  "mulps %%xmm15, %%xmm13\n"  \
  "addps %%xmm13, %%xmm" #i "\n"
#define QUEST_PAIRS_128(i)     \
  "movdqa %%xmm14, %%xmm13\n"  \
  "pmaddwd %%xmm15, %%xmm13\n" \
  "paddd %%xmm13, %%xmm" #i "\n"

__attribute__((target("avx512f"))) void fma_512(std::int64_t loops) {
  QUEST_LOOP(QUEST_ALL_ZERO_512, QUEST_TIMES_24(QUEST_FMA_512), "vzeroupper\n", QUEST_LOW_REGISTERS,
             QUEST_HIGH_REGISTERS);
}
__attribute__((target("avx512f"))) void bf16_512(std::int64_t loops) {
  QUEST_LOOP(QUEST_ALL_ZERO_512, QUEST_TIMES_24(QUEST_BF16_512), "vzeroupper\n",
             QUEST_LOW_REGISTERS, QUEST_HIGH_REGISTERS);
}
__attribute__((target("avx512f"))) void vnni_512(std::int64_t loops) {
  QUEST_LOOP(QUEST_ALL_ZERO_512, QUEST_TIMES_24(QUEST_VNNI_512), "vzeroupper\n",
             QUEST_LOW_REGISTERS, QUEST_HIGH_REGISTERS);
}
__attribute__((target("avx512f"))) void bits_512(std::int64_t loops) {
  QUEST_LOOP(QUEST_ALL_ZERO_512, QUEST_TIMES_24(QUEST_BITS_512), "vzeroupper\n",
             QUEST_LOW_REGISTERS, QUEST_HIGH_REGISTERS);
}
void fma_256(std::int64_t loops) {
  QUEST_LOOP(QUEST_ALL_ZERO_256, QUEST_TIMES_12(QUEST_FMA_256), "vzeroupper\n",
             QUEST_LOW_REGISTERS);
}
void pairs_256(std::int64_t loops) {
  QUEST_LOOP(QUEST_ALL_ZERO_256, QUEST_TIMES_12(QUEST_PAIRS_256), "vzeroupper\n",
             QUEST_LOW_REGISTERS);
}
void mul_add_128(std::int64_t loops) {
  QUEST_LOOP(QUEST_ALL_ZERO_128, QUEST_TIMES_12(QUEST_MUL_ADD_128), "", QUEST_LOW_REGISTERS);
}
void pairs_128(std::int64_t loops) {
  QUEST_LOOP(QUEST_ALL_ZERO_128, QUEST_TIMES_12(QUEST_PAIRS_128), "", QUEST_LOW_REGISTERS);
}

/// 10^9 operations a second of `threads` threads in a loop that does `operations`.
double rate(int threads, double operations, void (*loop)(std::int64_t)) {
  constexpr std::int64_t kLoops = 100000;
  const double seconds = fastest_run(threads, [&](int) { loop(kLoops); });
  return 1e-9 * operations * kLoops * threads / seconds;
}

// --- AMX ---

/// The layout of LDTILECFG's operand.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

struct AmxUnits {
  bool bf16 = false;
  bool int8 = false;
};

/// What the CPU has and the system lets this process use.
AmxUnits amx_units() {
  constexpr unsigned kBf16Bit = 1u << 22, kTileBit = 1u << 24, kInt8Bit = 1u << 25;
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTileBit) == 0) return {};
  if (::syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return {};
  return {(d & kBf16Bit) != 0, (d & kInt8Bit) != 0};
}

#define QUEST_AMX_BEGIN                                                               \
  const TileConfig config;                                                            \
  asm volatile("ldtilecfg %0\n tilezero %%tmm6\n tilezero %%tmm7\n" : : "m"(config)); \
  asm volatile("tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n" : :)
void amx_int8(std::int64_t loops) {
  QUEST_AMX_BEGIN;
  asm volatile(
      "1: tdpbssd %%tmm7, %%tmm6, %%tmm0\n tdpbssd %%tmm7, %%tmm6, %%tmm1\n"
      "tdpbssd %%tmm7, %%tmm6, %%tmm2\n tdpbssd %%tmm7, %%tmm6, %%tmm3\n dec %0\n jnz 1b\n"
      "tilerelease\n"
      : "+r"(loops)
      :
      : "cc");
}
void amx_bf16(std::int64_t loops) {
  QUEST_AMX_BEGIN;
  asm volatile(
      "1: tdpbf16ps %%tmm7, %%tmm6, %%tmm0\n tdpbf16ps %%tmm7, %%tmm6, %%tmm1\n"
      "tdpbf16ps %%tmm7, %%tmm6, %%tmm2\n tdpbf16ps %%tmm7, %%tmm6, %%tmm3\n dec %0\n jnz 1b\n"
      "tilerelease\n"
      : "+r"(loops)
      :
      : "cc");
}

/// Steps of two by two tiles, whose operands are loaded from `data`, kDataSteps of them in turn.
constexpr std::int64_t kDataSteps = 8;
#define QUEST_AMX_DATA(PRODUCT)                                                               \
  QUEST_AMX_BEGIN;                                                                            \
  const std::int64_t stride = 64;                                                             \
  for (; loops > 0; --loops) {                                                                \
    const std::byte* tiles = data;                                                            \
    std::int64_t steps = kDataSteps;                                                          \
    asm volatile("1: tileloadd (%0,%2,1), %%tmm4\n tileloadd 1024(%0,%2,1), %%tmm6\n" PRODUCT \
                 " %%tmm6, %%tmm4, %%tmm0\n tileloadd 2048(%0,%2,1), %%tmm7\n" PRODUCT        \
                 " %%tmm7, %%tmm4, %%tmm1\n tileloadd 3072(%0,%2,1), %%tmm5\n" PRODUCT        \
                 " %%tmm6, %%tmm5, %%tmm2\n" PRODUCT                                          \
                 " %%tmm7, %%tmm5, %%tmm3\n add $4096, %0\n dec %1\n jnz 1b\n"                \
                 : "+r"(tiles), "+r"(steps)                                                   \
                 : "r"(stride)                                                                \
                 : "cc", "memory");                                                           \
  }                                                                                           \
  asm volatile("tilerelease")
void amx_int8_data(std::int64_t loops, const std::byte* data) { QUEST_AMX_DATA("tdpbssd"); }
void amx_bf16_data(std::int64_t loops, const std::byte* data) { QUEST_AMX_DATA("tdpbf16ps"); }

/// 10^9 operations a second of a loop over random operands: codes of four bits, or numbers of bf16
/// between 1/2 and 2 of either sign.
double data_rate(int threads, bool bf16) {
  constexpr std::int64_t kLoops = 25000;
  constexpr std::size_t kBytes = kDataSteps * 4096;
  std::vector<std::uint16_t> operands(kBytes / 2 + 32);
  std::uint32_t state = 1;
  for (std::uint16_t& value : operands) {
    state = state * 1664525u + 1013904223u;
    const auto random = static_cast<std::uint16_t>(state >> 16);
    const int low = (random & 15) - 8, high = (random >> 4 & 15) - 8;
    value = static_cast<std::uint16_t>(bf16 ? 0x3f00 | (random & 0x80ff) : (low & 255) | high << 8);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(operands.data());
  const std::byte* const data =
      reinterpret_cast<std::byte*>(operands.data()) + (64 - address % 64) % 64;
  const double operations = 4.0 * kDataSteps * (bf16 ? 16384 : 32768);
  const double seconds = fastest_run(
      threads, [&](int) { bf16 ? amx_bf16_data(kLoops, data) : amx_int8_data(kLoops, data); });
  return 1e-9 * operations * kLoops * threads / seconds;
}

#endif

}  // namespace

Peaks measure_peaks(int threads) {
  Peaks peaks{};
  peaks.threads = threads;
#if defined(__x86_64__)
  const bool wide = __builtin_cpu_supports("avx512f") != 0;
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  if (wide) {
    peaks.f32_gflops = rate(threads, 24 * 32, fma_512);
  } else {
    peaks.f32_gflops = avx2 ? rate(threads, 12 * 16, fma_256) : rate(threads, 12 * 8, mul_add_128);
  }
  if (wide && __builtin_cpu_supports("avx512vnni")) {
    peaks.int8_gops = rate(threads, 24 * 128, vnni_512);
  } else {
    peaks.int8_gops = avx2 ? rate(threads, 12 * 32, pairs_256) : rate(threads, 12 * 16, pairs_128);
  }
  if (wide && __builtin_cpu_supports("avx512bf16")) {
    peaks.bf16_gflops = rate(threads, 24 * 64, bf16_512);
  }
  if (wide && __builtin_cpu_supports("avx512vpopcntdq")) {
    peaks.binary_gops = rate(threads, 24 * 1024, bits_512);
  }
  const AmxUnits amx = amx_units();
  if (amx.int8) peaks.amx_int8_gops = rate(threads, 4 * 32768, amx_int8);
  if (amx.bf16) peaks.amx_bf16_gflops = rate(threads, 4 * 16384, amx_bf16);
  if (amx.int8) peaks.amx_int8_data_gops = data_rate(threads, false);
  if (amx.bf16) peaks.amx_bf16_data_gflops = data_rate(threads, true);
  const auto count = static_cast<std::size_t>(threads);
  peaks.cache_gb_per_s = measure_read_rate(threads, kCacheBytes * count);
  peaks.shared_cache_gb_per_s = measure_read_rate(threads, kSharedCacheBytes * count);
  peaks.memory_gb_per_s = measure_read_rate(threads, kMemoryBytes);
#endif
  return peaks;
}

}  // namespace quest
