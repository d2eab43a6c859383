// Warpgroups on the host: asynchronous products as the PTX ISA describes them.
//
// The async proxy is a second copy of shared memory, which takes over what is in the first when all
// threads of the block have published what they wrote. (The ISA asks only those that wrote.)
#include "backend/cuda/warpgroup.cuh"

#include <algorithm>
#include <deque>
#include <vector>

#include "backend/cuda/tensor_core.cuh"
#include "execution.h"

namespace cuda_on_host {
namespace {

constexpr unsigned kWarpgroup = 128;
// Where dynamic shared memory begins: at no multiple of 1024, which kernels may not count on.
constexpr unsigned kWindow = 0x480;
constexpr int kSpoiled = 0x5a5a5a5a;
constexpr std::size_t kLineBytes = 32;  // of a line of a factor, in one product

std::vector<std::byte>& published();  // as the async proxy sees the block's shared memory

// A factor in shared memory, from its descriptor.
struct Matrix {
  unsigned start, stride;

  Matrix(std::uint64_t descriptor, const std::source_location& where)
      : start(static_cast<unsigned>(descriptor & 0x3fff) << 4),
        stride(static_cast<unsigned>(descriptor >> 32 & 0x3fff) << 4) {
    constexpr std::uint64_t kReserved = 0x3ff1'c000'c000'c000u;  // bits 14-15, 30-31, 46-48, 52-61
    if ((descriptor & kReserved) != 0) die("a descriptor with bits that mean nothing", where);
    if (descriptor >> 62 != 1) die("a factor that is not swizzled by 128 bytes", where);
    if ((descriptor >> 49 & 7) != 0) die("a factor whose pattern is shifted", where);
    if (start % 1024 + kLineBytes > 128 || stride % 1024 != 0) {
      die("a factor whose pattern begins at no multiple of 1024 bytes", where);
    }
  }
  // Where 16 bytes of a line lie from the beginning of dynamic shared memory.
  std::size_t offset(unsigned line, unsigned half) const {
    const unsigned address = start + line / 8 * stride + line % 8 * 128 + 16 * half;
    return (address ^ (address >> 7 & 7) << 4) - kWindow;
  }
};

// Lines of a factor that a warp reads, and the bytes that it has read there.
struct Lines {
  Matrix matrix;
  unsigned first, count;
  std::vector<std::int8_t> bytes;

  Lines(const Matrix& matrix_, unsigned first_, unsigned count_)
      : matrix(matrix_), first(first_), count(count_), bytes(count * kLineBytes) {
    for_each_half([&](std::size_t offset, std::int8_t* half) {
      std::memcpy(half, published().data() + offset, 16);
      return true;
    });
  }
  bool unchanged() {
    return for_each_half([&](std::size_t offset, const std::int8_t* half) {
      return std::memcmp(half, dynamic_shared() + offset, 16) == 0;
    });
  }

 private:
  template <typename Body>
  bool for_each_half(Body body) {
    for (unsigned i = 0; i < 2 * count; ++i) {
      const std::size_t offset = matrix.offset(first + i / 2, i % 2);
      if (offset + 16 > published().size()) die("a factor beyond the block's shared memory", {});
      if (!body(offset, bytes.data() + 16 * i)) return false;
    }
    return true;
  }
};

struct Product {
  Lines left, right;
};

struct Warp {
  std::deque<Product> products;                      // underway, the oldest first
  std::deque<std::size_t> groups;                    // their sizes
  std::size_t open = 0;                              // products since the last group
  std::size_t begun = 0, committed = 0, waited = 0;  // by the lane that was first
  bool spoiled = false;
};
struct Lane {
  std::vector<std::int32_t> sums;  // of products underway
  std::int32_t* visible = nullptr;
  bool fenced = false;
  std::size_t begun = 0, committed = 0, waited = 0, published = 0;
};
struct Call {
  std::uint64_t left, right;
  int tiles;
  bool operator==(const Call&) const = default;
};

// Of a block of the cluster that runs.
struct State {
  std::vector<std::byte> published;
  std::vector<unsigned> publications;  // by their number in a thread: threads that made them
  Warp warps[kMostThreads / kWarp];
  Lane lanes[kMostThreads];
  std::vector<Call> calls[kMostThreads / kWarpgroup];  // of a warpgroup: the same in all warps
  bool used = false;
};
State states[kMostCluster];

State& own_state() { return states[cluster_rank()]; }
std::vector<std::byte>& published_of(unsigned rank) {
  std::vector<std::byte>& bytes = states[rank].published;
  if (bytes.size() != dynamic_shared_bytes()) bytes.resize(dynamic_shared_bytes());
  return bytes;
}
std::vector<std::byte>& published() { return published_of(cluster_rank()); }
Warp& own_warp() { return own_state().warps[threadIdx.x / kWarp]; }
Lane& own_lane() { return own_state().lanes[threadIdx.x]; }

// Whether this lane is the first of its warp with so many calls.
bool is_first(std::size_t& of_lane, std::size_t& of_warp) {
  if (++of_lane <= of_warp) return false;
  of_warp = of_lane;
  return true;
}

// All lanes of the warp, and in the end all warps of the warpgroup, have brought the same factors.
void check_call(const Call& call, std::size_t index, const std::source_location& where) {
  std::uint32_t own[4];
  std::memcpy(own, &call.left, 8);
  std::memcpy(own + 2, &call.right, 8);
  const WarpWords words = gather(own, 4, where);
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 4; ++i) {
      if (words[i][lane] != own[i]) die("lanes that multiply other factors", where);
    }
  }
  std::vector<Call>& of_group = own_state().calls[threadIdx.x / kWarpgroup];
  if (of_group.size() == index) of_group.push_back(call);
  if (of_group[index] != call) die("warps that multiply other factors", where);
}

template <typename Right>
std::int32_t dot(const std::int8_t* left, const std::int8_t* right) {
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < kLineBytes; ++i) sum += left[i] * static_cast<Right>(right[i]);
  return sum;
}

template <typename Right>
void add_products(const Product& product, Lane& lane) {
  const unsigned g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  for (std::size_t i = 0; i < lane.sums.size(); ++i) {
    const std::size_t row = g + i / 2 % 2 * 8, column = i / 4 * 8 + 2 * t + i % 2;
    const std::int32_t sum = dot<Right>(product.left.bytes.data() + row * kLineBytes,
                                        product.right.bytes.data() + column * kLineBytes);
    lane.sums[i] = static_cast<std::int32_t>(static_cast<unsigned>(lane.sums[i]) +
                                             static_cast<unsigned>(sum));  // wraps
  }
}

}  // namespace

unsigned shared_address(const void* data) {
  return static_cast<unsigned>(static_cast<const std::byte*>(data) - dynamic_shared()) + kWindow;
}

void publish_shared_writes() {
  own_state().used = true;
  const std::size_t index = own_lane().published++;
  std::vector<unsigned>& publications = own_state().publications;
  if (publications.size() <= index) publications.resize(index + 1);
  if (++publications[index] < blockDim.x) return;
  published().assign(dynamic_shared(), dynamic_shared() + dynamic_shared_bytes());
}

void write_published(unsigned rank, std::size_t offset, const std::byte (&bytes)[16]) {
  states[rank].used = true;
  std::memcpy(published_of(rank).data() + offset, bytes, sizeof bytes);
  std::memcpy(dynamic_shared(rank) + offset, bytes, sizeof bytes);
}

void begin_products(const std::source_location& where) {
  warp_barrier(~0u, where);
  own_state().used = true;
  own_lane().fenced = true;
}

void multiply_async(std::int32_t* sums, int tiles, bool is_unsigned, std::uint64_t left,
                    std::uint64_t right, const std::source_location& where) {
  Warp& warp = own_warp();
  Lane& lane = own_lane();
  if (blockDim.x % kWarpgroup != 0) die("a block of no whole warpgroups", where);
  check_call({left, right, tiles}, lane.begun, where);
  const auto count = static_cast<std::size_t>(tiles) * 4;
  if (lane.visible == nullptr) {
    if (!lane.fenced) die("products begin on sums that are not fenced", where);
    lane.visible = sums;
    lane.sums.assign(sums, sums + count);
    std::fill_n(sums, count, kSpoiled);
  }
  if (lane.visible != sums || lane.sums.size() != count) die("products underway elsewhere", where);
  if (std::count(sums, sums + count, kSpoiled) != static_cast<std::ptrdiff_t>(count)) {
    die("sums that were touched while products are underway", where);
  }
  if (is_first(lane.begun, warp.begun)) {
    const unsigned first_row = threadIdx.x % kWarpgroup / kWarp * 16;
    warp.products.push_back({Lines(Matrix(left, where), first_row, 16),
                             Lines(Matrix(right, where), 0, static_cast<unsigned>(tiles) * 8)});
    ++warp.open;
  }
  if (is_unsigned) {
    add_products<std::uint8_t>(warp.products.back(), lane);
  } else {
    add_products<std::int8_t>(warp.products.back(), lane);
  }
}

void commit_products(const std::source_location& where) {
  warp_barrier(~0u, where);
  Warp& warp = own_warp();
  if (!is_first(own_lane().committed, warp.committed)) return;
  warp.groups.push_back(warp.open);
  warp.open = 0;
}

void wait_for_products(int pending, const std::source_location& where) {
  warp_barrier(~0u, where);
  Warp& warp = own_warp();
  Lane& lane = own_lane();
  if (is_first(lane.waited, warp.waited)) {
    for (; warp.groups.size() > static_cast<std::size_t>(pending); warp.groups.pop_front()) {
      for (std::size_t i = 0; i < warp.groups.front(); ++i) {
        Product& product = warp.products.front();
        if (!product.left.unchanged() || !product.right.unchanged()) warp.spoiled = true;
        warp.products.pop_front();
      }
    }
  }
  if (!warp.products.empty() || lane.visible == nullptr) return;
  if (!warp.spoiled) std::copy(lane.sums.begin(), lane.sums.end(), lane.visible);
  lane.visible = nullptr;
  lane.fenced = false;
}

void end_products() {
  if (own_lane().visible != nullptr) die("a thread ends with products it did not wait for", {});
}

void forget_products() {
  State& state = own_state();
  if (!state.used) return;
  state.used = false;
  state.published.clear();
  state.publications.clear();
  for (Warp& warp : state.warps) warp = {};
  for (Lane& lane : state.lanes) lane = {};
  for (std::vector<Call>& of_group : state.calls) of_group.clear();
}

}  // namespace cuda_on_host
