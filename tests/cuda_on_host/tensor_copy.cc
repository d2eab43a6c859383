// Copies of tiles on the host, and the barriers with phases that count them, as the PTX ISA
// describes them (mbarrier, cp.async.bulk.tensor); maps of tensors as the driver's interface does.
#include "backend/cuda/tensor_copy.cuh"

#include <algorithm>
#include <deque>
#include <map>

#include "backend/cuda/warpgroup.cuh"
#include "execution.h"

namespace {

constexpr std::uint32_t kMostRank = 5;

// What a CUtensorMap holds here.
struct Map {
  std::uint64_t magic, address;
  std::uint64_t sizes[kMostRank], strides[kMostRank];  // strides[0]: of dimension 1
  std::uint32_t rank, swizzled;
  std::uint16_t box[kMostRank];
};
static_assert(sizeof(Map) <= sizeof(CUtensorMap));
constexpr std::uint64_t kMagic = 0x7465'6e73'6f72'6d61u;

bool tensor_maps = true;

}  // namespace

CUresult cuTensorMapEncodeTiled(CUtensorMap* to, CUtensorMapDataType, std::uint32_t rank,
                                void* address, const std::uint64_t* sizes,
                                const std::uint64_t* strides, const std::uint32_t* box,
                                const std::uint32_t* steps, CUtensorMapInterleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill) {
  Map map{kMagic, reinterpret_cast<std::uintptr_t>(address), {}, {}, rank, 0, {}};
  map.swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 1 : 0;
  bool valid = rank >= 1 && rank <= kMostRank && map.address % 16 == 0 && box[0] % 16 == 0 &&
               (map.swizzled == 0 || box[0] <= 128);
  for (std::uint32_t i = 0; valid && i < rank; ++i) {
    map.sizes[i] = sizes[i];
    map.box[i] = static_cast<std::uint16_t>(box[i]);
    valid = sizes[i] > 0 && sizes[i] <= std::uint64_t{1} << 32 && box[i] > 0 && box[i] <= 256 &&
            steps[i] == 1;
    if (i + 1 == rank) break;
    map.strides[i] = strides[i];
    valid = valid && strides[i] % 16 == 0 && strides[i] < std::uint64_t{1} << 40;
  }
  if (!valid) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(to, &map, sizeof map);
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = tensor_maps && std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

namespace cuda_on_host {
namespace {

constexpr std::uint64_t kBarrierBytes = 0x6d62'6172'7269'6572u;  // lie where a barrier is

// A tile on its way into the shared memory of a block.
struct Copy {
  Map map;
  int at[kMostRank];
  std::size_t to;  // from the beginning of shared memory
  unsigned block;

  int bytes() const {
    int product = 1;
    for (std::uint32_t i = 0; i < map.rank; ++i) product *= map.box[i];
    return product;
  }
};

// A barrier with phases, in the shared memory of a block.
struct Phases {
  unsigned arrivals, pending;  // of a phase; that have not come yet
  int bytes = 0;               // expected, less those that came
  unsigned completed = 0;      // phases
  bool announced = false;
  unsigned maker;  // the thread that made it
  std::deque<Copy> copies;
};
std::map<std::size_t, Phases> phases[kMostCluster];  // by offset

std::size_t offset_of(const void* data) {
  return static_cast<std::size_t>(static_cast<const std::byte*>(data) -
                                  dynamic_shared(cluster_rank()));
}

Phases& find(std::size_t offset, unsigned block, const std::source_location& where) {
  if (block >= cluster_blocks()) die("a block that is not in the cluster", where);
  if (has_ended(block)) die("a barrier of a block that has ended", where);
  const auto found = phases[block].find(offset);
  if (found == phases[block].end()) die("a barrier that nobody made", where);
  std::uint64_t bytes;
  std::memcpy(&bytes, dynamic_shared(block) + offset, sizeof bytes);
  if (bytes != kBarrierBytes) die("a barrier that was overwritten", where);
  const bool own = block == cluster_rank() && found->second.maker == threadIdx.x;
  if (!found->second.announced && !own) die("a barrier that was not announced", where);
  return found->second;
}

// Whether the phase has ended; then the next one begins.
void end_phase(Phases& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.arrivals;
  ++barrier.completed;
  count_progress();
}

// body(offset in the target, address or 0 where there is nothing) for all of a tile, by 16 bytes.
template <typename Body>
void for_each_chunk(const Copy& copy, Body body) {
  const Map& map = copy.map;
  const int bytes = copy.bytes();
  for (int offset = 0; offset < bytes; offset += 16) {
    std::uint64_t address = map.address;
    bool inside = true;
    for (std::uint32_t i = 0, rest = static_cast<std::uint32_t>(offset); i < map.rank; ++i) {
      const std::int64_t place = copy.at[i] + static_cast<std::int64_t>(rest % map.box[i]);
      rest /= map.box[i];
      inside = inside && place >= 0 && static_cast<std::uint64_t>(place) < map.sizes[i];
      address += static_cast<std::uint64_t>(place) * (i == 0 ? 1 : map.strides[i - 1]);
    }
    // The pattern goes by addresses, not by places in the tile.
    const unsigned line =
        quest::cuda::shared_address(dynamic_shared(cluster_rank()) + copy.to + offset) / 128 % 8;
    const int twisted = map.swizzled != 0 ? offset ^ static_cast<int>(line << 4) : offset;
    const std::uint64_t left =
        map.sizes[0] - static_cast<std::uint64_t>(copy.at[0] + offset % map.box[0]);
    body(copy.to + static_cast<std::size_t>(twisted), address, inside ? left : 0);
  }
}

void spoil(const Copy& copy) {
  std::byte bytes[16];
  std::fill_n(bytes, 16, std::byte{0xa5});
  for_each_chunk(copy, [&](std::size_t offset, std::uint64_t, std::uint64_t) {
    write_published(copy.block, offset, bytes);
  });
}

void make(const Copy& copy) {
  for_each_chunk(copy, [&](std::size_t offset, std::uint64_t address, std::uint64_t left) {
    std::byte bytes[16] = {};
    std::memcpy(bytes, reinterpret_cast<const void*>(address), std::min<std::size_t>(left, 16));
    write_published(copy.block, offset, bytes);
  });
}

}  // namespace

void begin_phases(std::uint64_t* barrier, unsigned arrivals, const std::source_location& where) {
  if (reinterpret_cast<std::uintptr_t>(barrier) % 8 != 0) die("a barrier at no 8 bytes", where);
  if (arrivals == 0 || arrivals >= 1u << 20) die("a barrier of no or too many arrivals", where);
  std::memcpy(barrier, &kBarrierBytes, sizeof kBarrierBytes);
  Phases made;
  made.arrivals = made.pending = arrivals;
  made.maker = threadIdx.x;
  phases[cluster_rank()][offset_of(barrier)] = made;
}

void announce_phases(const std::source_location&) {
  for (auto& [offset, barrier] : phases[cluster_rank()]) {
    if (barrier.maker == threadIdx.x) barrier.announced = true;
  }
}

void arrive(std::uint64_t* barrier, unsigned block, unsigned bytes,
            const std::source_location& where) {
  Phases& found = find(offset_of(barrier), block, where);
  found.bytes += static_cast<int>(bytes);
  if (found.bytes >= 1 << 20) die("a phase that expects too many bytes", where);
  if (found.pending == 0) die("an arrival too many", where);
  --found.pending;
  count_progress();
  end_phase(found);
}

void wait_for_phase(std::uint64_t* barrier, unsigned parity, const std::source_location& where) {
  if (parity > 1) die("a parity that is none", where);
  Phases& found = find(offset_of(barrier), cluster_rank(), where);
  while (found.completed % 2 == parity) {
    if (found.pending == 0 && !found.copies.empty()) {
      make(found.copies.front());
      found.bytes -= found.copies.front().bytes();
      found.copies.pop_front();
      end_phase(found);
      continue;
    }
    let_others_run(where);
  }
}

void copy_tile(std::byte* to, const CUtensorMap& opaque, const int* at, unsigned rank,
               unsigned blocks, std::uint64_t* barrier, const std::source_location& where) {
  Copy copy{};
  std::memcpy(&copy.map, &opaque, sizeof copy.map);
  if (copy.map.magic != kMagic || copy.map.rank != rank) die("a map of another rank", where);
  std::copy_n(at, rank, copy.at);
  copy.to = offset_of(to);
  const unsigned address = quest::cuda::shared_address(to);
  if (address % 128 != 0) die("a tile at no multiple of 128 bytes", where);
  if (copy.to + static_cast<std::size_t>(copy.bytes()) > dynamic_shared_bytes()) {
    die("a tile beyond the block's shared memory", where);
  }
  if (blocks == 0 || blocks >> cluster_blocks() != 0) die("blocks beyond the cluster", where);
  for (copy.block = 0; copy.block < cluster_blocks(); ++copy.block) {
    if ((blocks >> copy.block & 1) == 0) continue;
    Phases& found = find(offset_of(barrier), copy.block, where);
    if (!found.announced) die("a barrier that was not announced", where);
    spoil(copy);
    found.copies.push_back(copy);
    count_progress();
  }
}

void end_phases() {
  for (const auto& [offset, barrier] : phases[cluster_rank()]) {
    if (!barrier.copies.empty()) die("a block ends with copies that it did not wait for", {});
  }
  phases[cluster_rank()].clear();
}

void set_tensor_maps(bool available) { tensor_maps = available; }

}  // namespace cuda_on_host
