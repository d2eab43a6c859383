// Grids on the host: blocks one after the other, the threads of a block as fibers that take turns.
//
// A fiber is made by makecontext once and kept; turns change by _setjmp and _longjmp, which make no
// system calls. A warp runs until all of it waits for other warps, then the next one does: so warps
// are as far apart as barriers let them be. A round in which no thread gets any further means that
// a barrier is not reached by all.
#include "execution.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "backend/cuda/tensor_core.cuh"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {
namespace {

constexpr std::size_t kStackBytes = std::size_t{64} << 10;
constexpr std::size_t kPage = 4096;
// What a block has without asking, and what devices let it ask for: sm_90, and all from sm_80 on.
constexpr std::size_t kPlainSharedBytes = std::size_t{48} << 10;
constexpr std::size_t kMostSharedBytes = std::size_t{227} << 10;
constexpr std::size_t kLeastSharedBytes = std::size_t{99} << 10;

struct Fiber {
  std::jmp_buf turn;
  ucontext_t start;
  std::unique_ptr<char[]> stack;
  bool done = true;
  bool waited = false;  // for the kernel before
  unsigned parity = 0;  // which of two slots the next exchange uses
};

struct Barrier {
  unsigned arrived = 0;
  unsigned generation = 0;
  unsigned line = 0;
  const char* file = nullptr;
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* current = nullptr;
  std::jmp_buf scheduler;
  ucontext_t scheduler_start;
  Barrier whole, warps[kMostThreads / kWarp];
  std::uint64_t slots[2][kMostThreads];
  std::uint32_t words[2][kMostThreads / kWarp][kMostWords][kWarp];
  const std::function<void()>* thread = nullptr;
  bool begun_early = false;
  unsigned running = 0;   // threads that have not ended
  unsigned progress = 0;  // counts barriers passed and threads ended
};

Block block;
// That of the grid which runs; none while a grid that was begun early has not waited.
std::optional<DeviceAccess> access;
Order order = Order::kForwards;

// Dynamic shared memory: it ends where a closed page begins.
struct SharedMemory {
  std::byte* pages = nullptr;
  std::byte* first = nullptr;
  std::map<const void*, std::size_t> granted;  // by kernel

  void begin_block(std::size_t bytes) {
    if (pages == nullptr) {
      constexpr std::size_t kWhole = (kMostSharedBytes + kPage - 1) / kPage * kPage;
      void* const memory = ::mmap(nullptr, kWhole + kPage, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) std::abort();
      pages = static_cast<std::byte*>(memory) + kWhole;
      ::mprotect(pages, kPage, PROT_NONE);
    }
    const std::size_t size = (bytes + 127) / 128 * 128;
    first = pages - size;
    std::memset(first, 0xff, size);
  }
};
SharedMemory shared;

[[noreturn]] void die(const char* what, const char* file, unsigned line) {
  std::fprintf(stderr, "cuda_on_host: %s, block %u,%u,%u thread %u of %u, %s:%u\n", what,
               blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, blockDim.x,
               file == nullptr ? "" : file, line);
  std::abort();
}

void yield() {
  if (_setjmp(block.current->turn) == 0) _longjmp(block.scheduler, 1);
}

void fiber_main() {
  for (;;) {
    block.current->waited = false;
    (*block.thread)();
    end_copies();
    end_products();
    if (!block.current->waited && block.begun_early) {
      die("a thread ends that has not waited for the kernel before", nullptr, 0);
    }
    block.current->done = true;
    --block.running;
    ++block.progress;
    yield();
  }
}

void wait(Barrier& barrier, unsigned expected, const std::source_location& where) {
  if (barrier.arrived == 0) {
    barrier.line = where.line();
    barrier.file = where.file_name();
  } else if (barrier.line != where.line() || std::strcmp(barrier.file, where.file_name()) != 0) {
    die("threads wait at different barriers", where.file_name(), where.line());
  }
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    ++block.progress;
    return;
  }
  const unsigned generation = barrier.generation;
  while (barrier.generation == generation) yield();
}

void take_turn(unsigned index) {
  Fiber& fiber = *block.fibers[index];
  block.current = &fiber;
  threadIdx = dim3(index, 0, 0);
  if (_setjmp(block.scheduler) != 0) return;
  if (fiber.stack == nullptr) {
    fiber.stack = std::make_unique<char[]>(kStackBytes);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStackBytes;
    makecontext(&fiber.start, fiber_main, 0);
    setcontext(&fiber.start);
  }
  _longjmp(fiber.turn, 1);
}

// Lets a warp run until all its threads have ended or wait for other warps.
void run_warp(unsigned first, unsigned count) {
  for (unsigned before = block.progress + 1; before != block.progress;) {
    before = block.progress;
    for (unsigned i = 0; i < count; ++i) {
      const unsigned index = first + (order == Order::kForwards ? i : count - 1 - i);
      if (!block.fibers[index]->done) take_turn(index);
    }
  }
}

void run_block(unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) {
    block.fibers[i]->done = false;
    block.fibers[i]->parity = 0;
  }
  const unsigned warps = (threads + kWarp - 1) / kWarp;
  block.running = threads;
  while (block.running > 0) {
    const unsigned before = block.progress;
    for (unsigned i = 0; i < warps; ++i) {
      const unsigned first = kWarp * (order == Order::kForwards ? i : warps - 1 - i);
      run_warp(first, std::min(kWarp, threads - first));
    }
    if (block.running > 0 && block.progress == before) {
      const Barrier* stuck = &block.whole;
      for (const Barrier& warp : block.warps) {
        if (warp.arrived > 0) stuck = &warp;
      }
      die("a barrier that not all threads reach", stuck->file, stuck->line);
    }
  }
}

std::size_t granted_bytes(const void* kernel) {
  const auto found = shared.granted.find(kernel);
  return found == shared.granted.end() ? kPlainSharedBytes : found->second;
}

bool allowed(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 grid = config.gridDim;
  return grid.x >= 1 && grid.x <= 0x7fffffffu && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 &&
         grid.z <= 65535 && config.blockDim.x >= 1 && config.blockDim.x <= kMostThreads &&
         config.blockDim.y == 1 && config.blockDim.z == 1 &&
         config.dynamicSmemBytes <= granted_bytes(kernel);
}

void run_blocks(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
  block.begun_early = config.numAttrs > 0;
  if (!block.begun_early) access.emplace();
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  block.thread = &thread;
  while (block.fibers.size() < blockDim.x) block.fibers.push_back(std::make_unique<Fiber>());
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = dim3(x, y, z);
        shared.begin_block(config.dynamicSmemBytes);
        run_block(blockDim.x);
      }
    }
  }
  access.reset();
}

}  // namespace

void await_last_kernel() {
  block.current->waited = true;
  if (!access) access.emplace();
}

uint4 read_early(const void* from) {
  uint4 value;
  if (access) {
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  // The pages are closed, to all but this file.
  static const int own_memory = ::open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(from));
  if (::pread(own_memory, &value, sizeof value, at) != sizeof value) {
    die("an early read that failed", nullptr, 0);
  }
  return value;
}

void block_barrier(const std::source_location& where) { wait(block.whole, blockDim.x, where); }

void warp_barrier(unsigned mask, const std::source_location& where) {
  const unsigned warp = threadIdx.x / kWarp;
  if (mask != ~0u) die("only whole warps are emulated", where.file_name(), where.line());
  wait(block.warps[warp], std::min(kWarp, blockDim.x - warp * kWarp), where);
}

std::uint64_t exchange(unsigned mask, std::uint64_t bits, unsigned lane,
                       const std::source_location& where) {
  const unsigned self = threadIdx.x, source = self / kWarp * kWarp + lane % kWarp;
  if (source >= blockDim.x) die("a lane that is not there", where.file_name(), where.line());
  Fiber& fiber = *block.current;
  const unsigned parity = fiber.parity;
  fiber.parity ^= 1;
  block.slots[parity][self] = bits;
  warp_barrier(mask, where);
  return block.slots[parity][source];
}

WarpWords gather(const std::uint32_t* words, int count, const std::source_location& where) {
  if (blockDim.x % kWarp != 0) die("a block of no whole warps", where);
  const unsigned self = threadIdx.x, parity = block.current->parity;
  block.current->parity ^= 1;
  auto& of_warp = block.words[parity][self / kWarp];
  for (int i = 0; i < count; ++i) of_warp[i][self % kWarp] = words[i];
  warp_barrier(~0u, where);
  return of_warp;
}

void die(const char* what, const std::source_location& where) {
  die(what, where.file_name(), where.line());
}

std::byte* dynamic_shared() { return shared.first; }
std::size_t dynamic_shared_bytes() { return static_cast<std::size_t>(shared.pages - shared.first); }

cudaError_t grant_shared(const void* kernel, int bytes) {
  cudaDeviceProp device{};
  cudaGetDeviceProperties(&device, 0);
  const std::size_t most = device.major == 9 ? kMostSharedBytes : kLeastSharedBytes;
  if (bytes < 0 || static_cast<std::size_t>(bytes) > most) return cudaErrorInvalidValue;
  shared.granted[kernel] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}

void set_order(Order wanted) { order = wanted; }

cudaError_t run_grid(const cudaLaunchConfig_t& config, const void* kernel,
                     std::function<void()> thread) {
  if (!allowed(config, kernel)) return cudaErrorInvalidConfiguration;
  return enqueue(config.stream,
                 [config, thread = std::move(thread)] { run_blocks(config, thread); });
}

}  // namespace cuda_on_host
