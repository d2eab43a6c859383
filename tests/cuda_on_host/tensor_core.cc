// Tensor cores, matrix loads and asynchronous copies on the host, as the PTX ISA describes them.
#include "backend/cuda/tensor_core.cuh"

#include <vector>

#include "core/bfloat16.h"
#include "execution.h"

namespace cuda_on_host {
namespace {

// 16 bytes that four lanes have brought: places 0..15 (or 0..7 in bf16) of row or column g.
const std::uint32_t* line(WarpWords words, int word, unsigned g) { return &words[word][4 * g]; }

// What a register holds, and the arithmetic of sums: products of integers, or of bf16.
template <typename Left, typename Right>
struct Integers {
  using Sum = std::int32_t;
  static Sum dot(const std::uint32_t* a, const std::uint32_t* b, Sum sum) {
    Left left[16];
    Right right[16];
    std::memcpy(left, a, sizeof left);
    std::memcpy(right, b, sizeof right);
    unsigned total = static_cast<unsigned>(sum);  // wraps
    for (int i = 0; i < 16; ++i) {
      total += static_cast<unsigned>(std::int16_t{left[i]} * std::int16_t{right[i]});
    }
    return static_cast<Sum>(total);
  }
};
struct Bf16 {
  using Sum = float;
  static Sum dot(const std::uint32_t* a, const std::uint32_t* b, Sum sum) {
    quest::BFloat16 left[8], right[8];
    std::memcpy(left, a, sizeof left);
    std::memcpy(right, b, sizeof right);
    for (int i = 0; i < 8; ++i) sum += quest::to_float(left[i]) * quest::to_float(right[i]);
    return sum;
  }
};

template <typename Values>
void multiply(typename Values::Sum (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
              const std::source_location& where) {
  const std::uint32_t brought[] = {a[0], a[1], a[2], a[3], b0, b1};
  const WarpWords words = gather(brought, 6, where);
  const unsigned g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const int row = static_cast<int>(i / 2);  // of the two that a lane has
    const unsigned column = 2 * t + i % 2;
    const auto low = Values::dot(line(words, row, g), line(words, 4, column), sums[i]);
    sums[i] = Values::dot(line(words, row + 2, g), line(words, 5, column), low);
  }
}

MatrixLoads loads;

// Rows of a matrix whose first bytes lie in the same banks are read one after the other.
void count_load(const std::byte* const (&rows)[kWarp]) {
  for (unsigned first = 0; first < kWarp; first += 8) {
    unsigned banks = 0;
    for (unsigned i = 0; i < 8; ++i) {
      banks |= 1u << reinterpret_cast<std::uintptr_t>(rows[first + i]) / 16 % 8;
    }
    ++loads.all;
    if (banks != 0xff) ++loads.conflicting;
  }
}

struct Copy {
  std::byte* to;
  const std::byte* from;
  int size, bytes;
};
// Of one thread: groups that were made, the oldest first, and copies since.
struct Copies {
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};
Copies copies[kMostThreads];

void make(const std::vector<Copy>& group) {
  for (const Copy& copy : group) {
    std::memset(copy.to, 0, static_cast<std::size_t>(copy.size));
    std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.bytes));
  }
}

}  // namespace

void multiply_add(std::int32_t (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                  const std::source_location& where) {
  multiply<Integers<std::int8_t, std::int8_t>>(sums, a, b0, b1, where);
}
void multiply_add_unsigned(std::int32_t (&sums)[4], const unsigned (&a)[4], unsigned b0,
                           unsigned b1, const std::source_location& where) {
  multiply<Integers<std::int8_t, std::uint8_t>>(sums, a, b0, b1, where);
}
void multiply_unsigned_add(std::int32_t (&sums)[4], const unsigned (&a)[4], unsigned b0,
                           unsigned b1, const std::source_location& where) {
  multiply<Integers<std::uint8_t, std::int8_t>>(sums, a, b0, b1, where);
}
void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                  const std::source_location& where) {
  multiply<Bf16>(sums, a, b0, b1, where);
}

void load_matrices(unsigned (&to)[4], const void* row, bool transposed,
                   const std::source_location& where) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) die("a matrix row at no 16 bytes", where);
  std::uint32_t address[2];
  std::memcpy(address, &row, sizeof address);
  const WarpWords words = gather(address, 2, where);
  const std::byte* rows[kWarp];
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const std::uint64_t bits = words[0][lane] | std::uint64_t{words[1][lane]} << 32;
    rows[lane] = reinterpret_cast<const std::byte*>(static_cast<std::uintptr_t>(bits));
  }
  const unsigned g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  if (threadIdx.x % kWarp == 0) count_load(rows);
  for (unsigned i = 0; i < 4; ++i) {
    if (!transposed) {
      std::memcpy(&to[i], rows[8 * i + g] + 4 * t, 4);
    } else {
      std::uint16_t halves[2];
      std::memcpy(&halves[0], rows[8 * i + 2 * t] + 2 * g, 2);
      std::memcpy(&halves[1], rows[8 * i + 2 * t + 1] + 2 * g, 2);
      to[i] = halves[0] | unsigned{halves[1]} << 16;
    }
  }
}

void copy_async(void* shared, const void* global, int size, int bytes,
                const std::source_location& where) {
  const auto ends =
      reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global);
  if (ends % static_cast<std::uintptr_t>(size) != 0) die("a copy that is not aligned", where);
  if (bytes < 0 || bytes > size) die("a copy of more bytes than it fills", where);
  std::memset(shared, 0xa5, static_cast<std::size_t>(size));
  copies[threadIdx.x].open.push_back(
      {static_cast<std::byte*>(shared), static_cast<const std::byte*>(global), size, bytes});
}

void commit_copies() {
  Copies& own = copies[threadIdx.x];
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}

void wait_for_copies(int pending) {
  std::vector<std::vector<Copy>>& groups = copies[threadIdx.x].groups;
  while (static_cast<int>(groups.size()) > pending) {
    make(groups.front());
    groups.erase(groups.begin());
  }
}

void end_copies() {
  Copies& own = copies[threadIdx.x];
  bool any = !own.open.empty();
  for (const std::vector<Copy>& group : own.groups) any = any || !group.empty();
  if (any) die("a thread ends with copies that it did not wait for", {});
  own.groups.clear();
}

MatrixLoads take_matrix_loads() {
  const MatrixLoads taken = loads;
  loads = {};
  return taken;
}

}  // namespace cuda_on_host
