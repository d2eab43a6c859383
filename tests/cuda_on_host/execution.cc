// Grids on the host: blocks, or clusters of them, one after the other, whose threads are fibers
// that take turns.
//
// A fiber is made by makecontext once and kept; turns change by _setjmp and _longjmp, which make no
// system calls. A warp runs until all of it waits for other warps, then the next one does: so warps
// are as far apart as barriers let them be. Blocks of a cluster take turns likewise, each as far as
// it can run without the other, and each has its own dynamic shared memory (other shared variables
// are one for all). A round in which no thread gets any further means that a barrier is not reached
// by all.
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

constexpr unsigned kNamedBarriers = 16;

struct Block {
  dim3 index;
  std::vector<std::unique_ptr<Fiber>> fibers;
  Barrier whole, warps[kMostThreads / kWarp], named[kNamedBarriers];
  std::uint64_t slots[2][kMostThreads];
  std::uint32_t words[2][kMostThreads / kWarp][kMostWords][kWarp];
  unsigned running = 0;  // threads that have not ended
};

// The blocks that run, by their numbers in the cluster.
struct Cluster {
  Block blocks[kMostCluster];
  unsigned count = 1, current = 0;
  Fiber* fiber = nullptr;
  std::jmp_buf scheduler;
  Barrier all;
  const std::function<void()>* thread = nullptr;
  bool begun_early = false;
  unsigned progress = 0;        // counts barriers passed and threads ended
  std::source_location polled;  // where a thread last waited for a phase

  Block& block() { return blocks[current]; }
  unsigned running() const {
    unsigned sum = 0;
    for (unsigned rank = 0; rank < count; ++rank) sum += blocks[rank].running;
    return sum;
  }
};

Cluster cluster;
// That of the grid which runs; none while a grid that was begun early has not waited.
std::optional<DeviceAccess> access;
Order order = Order::kForwards;

// Dynamic shared memory of a block: it ends where a closed page begins.
struct SharedMemory {
  std::byte* pages = nullptr;
  std::byte* first = nullptr;

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
SharedMemory shared[kMostCluster];
std::map<const void*, std::size_t> granted_to;  // by kernel

[[noreturn]] void die(const char* what, const char* file, unsigned line) {
  std::fprintf(stderr, "cuda_on_host: %s, block %u,%u,%u thread %u of %u, %s:%u\n", what,
               blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, blockDim.x,
               file == nullptr ? "" : file, line);
  std::abort();
}

void yield() {
  if (_setjmp(cluster.fiber->turn) == 0) _longjmp(cluster.scheduler, 1);
}

void fiber_main() {
  for (;;) {
    cluster.fiber->waited = false;
    (*cluster.thread)();
    end_copies();
    end_products();
    if (!cluster.fiber->waited && cluster.begun_early) {
      die("a thread ends that has not waited for the kernel before", nullptr, 0);
    }
    cluster.fiber->done = true;
    ++cluster.progress;
    if (--cluster.block().running == 0) {
      end_phases();
      forget_products();
    }
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
    ++cluster.progress;
    return;
  }
  const unsigned generation = barrier.generation;
  while (barrier.generation == generation) yield();
}

void take_turn(unsigned index) {
  Fiber& fiber = *cluster.block().fibers[index];
  cluster.fiber = &fiber;
  threadIdx = dim3(index, 0, 0);
  if (_setjmp(cluster.scheduler) != 0) return;
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
  for (unsigned before = cluster.progress + 1; before != cluster.progress;) {
    before = cluster.progress;
    for (unsigned i = 0; i < count; ++i) {
      const unsigned index = first + (order == Order::kForwards ? i : count - 1 - i);
      if (!cluster.block().fibers[index]->done) take_turn(index);
    }
  }
}

// Lets a block run until all its threads have ended or wait for other blocks.
void run_block(unsigned rank, unsigned threads) {
  cluster.current = rank;
  blockIdx = cluster.block().index;
  const unsigned warps = (threads + kWarp - 1) / kWarp;
  for (unsigned before = cluster.progress + 1; before != cluster.progress;) {
    before = cluster.progress;
    for (unsigned i = 0; i < warps; ++i) {
      const unsigned first = kWarp * (order == Order::kForwards ? i : warps - 1 - i);
      run_warp(first, std::min(kWarp, threads - first));
    }
  }
}

[[noreturn]] void die_stuck() {
  const Barrier* stuck = nullptr;
  for (unsigned rank = 0; rank < cluster.count; ++rank) {
    Block& block = cluster.blocks[rank];
    const auto look = [&](const Barrier& barrier) {
      stuck = barrier.arrived > 0 ? &barrier : stuck;
    };
    look(block.whole);
    for (const Barrier& named : block.named) look(named);
    for (const Barrier& warp : block.warps) look(warp);
  }
  if (cluster.polled.line() != 0) {
    die("threads wait for a phase that nobody completes", cluster.polled.file_name(),
        cluster.polled.line());
  }
  if (stuck == nullptr) stuck = &cluster.all;
  die("a barrier that not all threads reach", stuck->file, stuck->line);
}

// Blocks first, first + 1, ... of a grid, as a cluster.
void run_cluster(unsigned threads) {
  for (unsigned rank = 0; rank < cluster.count; ++rank) {
    Block& block = cluster.blocks[rank];
    while (block.fibers.size() < threads) block.fibers.push_back(std::make_unique<Fiber>());
    for (unsigned i = 0; i < threads; ++i) {
      block.fibers[i]->done = false;
      block.fibers[i]->parity = 0;
    }
    block.running = threads;
  }
  while (cluster.running() > 0) {
    const unsigned before = cluster.progress;
    cluster.polled = {};
    for (unsigned i = 0; i < cluster.count; ++i) {
      run_block(order == Order::kForwards ? i : cluster.count - 1 - i, threads);
    }
    if (cluster.running() > 0 && cluster.progress == before) die_stuck();
  }
}

std::size_t granted_bytes(const void* kernel) {
  const auto found = granted_to.find(kernel);
  return found == granted_to.end() ? kPlainSharedBytes : found->second;
}

// What a launch asks for besides its grid. Its list of attributes ends with the call.
struct Wishes {
  unsigned cluster = 1;  // blocks of one
  bool begun_early = false;

  explicit Wishes(const cudaLaunchConfig_t& config) {
    for (unsigned i = 0; i < config.numAttrs; ++i) {
      const cudaLaunchAttribute& attribute = config.attrs[i];
      if (attribute.id == cudaLaunchAttributeClusterDimension) {
        cluster = attribute.val.clusterDim.x;
      } else {
        begun_early = attribute.val.programmaticStreamSerializationAllowed != 0;
      }
    }
  }
};

int capability_major() {
  cudaDeviceProp device{};
  cudaGetDeviceProperties(&device, 0);
  return device.major;
}

bool allowed(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 grid = config.gridDim;
  const unsigned size = Wishes(config).cluster;
  if (size != 1 && (capability_major() < 9 || size == 0 || size > kMostCluster)) return false;
  return grid.x % size == 0 && grid.x >= 1 && grid.x <= 0x7fffffffu && grid.y >= 1 &&
         grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535 && config.blockDim.x >= 1 &&
         config.blockDim.x <= kMostThreads && config.blockDim.y == 1 && config.blockDim.z == 1 &&
         config.dynamicSmemBytes <= granted_bytes(kernel);
}

void run_blocks(const cudaLaunchConfig_t& config, const Wishes& wishes,
                const std::function<void()>& thread) {
  cluster.begun_early = wishes.begun_early;
  if (!cluster.begun_early) access.emplace();
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  cluster.thread = &thread;
  cluster.count = wishes.cluster;
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; x += cluster.count) {
        for (unsigned rank = 0; rank < cluster.count; ++rank) {
          cluster.blocks[rank].index = dim3(x + rank, y, z);
          shared[rank].begin_block(config.dynamicSmemBytes);
        }
        run_cluster(blockDim.x);
      }
    }
  }
  access.reset();
}

}  // namespace

void await_last_kernel() {
  cluster.fiber->waited = true;
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

void block_barrier(const std::source_location& where) {
  wait(cluster.block().whole, blockDim.x, where);
}

void named_barrier(unsigned number, unsigned threads, const std::source_location& where) {
  if (number == 0 || number >= kNamedBarriers || threads % kWarp != 0) {
    die("a named barrier that is none", where);
  }
  wait(cluster.block().named[number], threads, where);
}

void cluster_barrier(const std::source_location& where) {
  wait(cluster.all, blockDim.x * cluster.count, where);
}

unsigned cluster_rank() { return cluster.current; }
unsigned cluster_blocks() { return cluster.count; }
bool has_ended(unsigned rank) { return cluster.blocks[rank].running == 0; }

void let_others_run(const std::source_location& where) {
  cluster.polled = where;
  yield();
}
void count_progress() { ++cluster.progress; }

void warp_barrier(unsigned mask, const std::source_location& where) {
  const unsigned warp = threadIdx.x / kWarp;
  if (mask != ~0u) die("only whole warps are emulated", where.file_name(), where.line());
  wait(cluster.block().warps[warp], std::min(kWarp, blockDim.x - warp * kWarp), where);
}

std::uint64_t exchange(unsigned mask, std::uint64_t bits, unsigned lane,
                       const std::source_location& where) {
  const unsigned self = threadIdx.x, source = self / kWarp * kWarp + lane % kWarp;
  if (source >= blockDim.x) die("a lane that is not there", where.file_name(), where.line());
  Fiber& fiber = *cluster.fiber;
  const unsigned parity = fiber.parity;
  fiber.parity ^= 1;
  cluster.block().slots[parity][self] = bits;
  warp_barrier(mask, where);
  return cluster.block().slots[parity][source];
}

WarpWords gather(const std::uint32_t* words, int count, const std::source_location& where) {
  if (blockDim.x % kWarp != 0) die("a block of no whole warps", where);
  const unsigned self = threadIdx.x, parity = cluster.fiber->parity;
  cluster.fiber->parity ^= 1;
  auto& of_warp = cluster.block().words[parity][self / kWarp];
  for (int i = 0; i < count; ++i) of_warp[i][self % kWarp] = words[i];
  warp_barrier(~0u, where);
  return of_warp;
}

void die(const char* what, const std::source_location& where) {
  die(what, where.file_name(), where.line());
}

std::byte* dynamic_shared(unsigned rank) { return shared[rank].first; }
std::byte* dynamic_shared() { return dynamic_shared(cluster.current); }
std::size_t dynamic_shared_bytes() {
  return static_cast<std::size_t>(shared[0].pages - shared[0].first);
}

cudaError_t grant_shared(const void* kernel, int bytes) {
  const std::size_t most = capability_major() == 9 ? kMostSharedBytes : kLeastSharedBytes;
  if (bytes < 0 || static_cast<std::size_t>(bytes) > most) return cudaErrorInvalidValue;
  granted_to[kernel] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}

void set_order(Order wanted) { order = wanted; }

cudaError_t run_grid(const cudaLaunchConfig_t& config, const void* kernel,
                     std::function<void()> thread) {
  if (!allowed(config, kernel)) return cudaErrorInvalidConfiguration;
  return enqueue(config.stream, [config, wishes = Wishes(config), thread = std::move(thread)] {
    run_blocks(config, wishes, thread);
  });
}

}  // namespace cuda_on_host
