// The functions of tensor_core.cuh alone, against plain loops: what lanes hold of a fragment, and
// what a copy fills.
#include "backend/cuda/tensor_core.cuh"

#include <gtest/gtest.h>

#include <numeric>

#include "core/bfloat16.h"
#include "core/rng.h"
#include "tests/cuda_kernels/kernel_runs.h"

namespace quest {
namespace {

constexpr unsigned kRows = 16, kColumns = 8;

// Places of the sum of one product, and how many of them are in a register.
template <typename Value>
constexpr unsigned kPlaces = 32 / sizeof(Value);
template <typename Value>
constexpr unsigned kInWord = 4 / sizeof(Value);

template <typename Value>
__device__ unsigned word_at(const Value* values) {
  unsigned word = 0;
  memcpy(&word, values, sizeof word);
  return word;
}

// sums [16][8] += a [16][places] b [8][places], fragments put together by hand.
template <typename Sum, typename Value, typename Right>
__global__ void product_by_hand(Sum* sums, const Value* a, const Right* b) {
  constexpr unsigned kAll = kPlaces<Value>;
  const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned left[4], right[2];
  for (unsigned half = 0; half < 2; ++half) {
    const unsigned place = half * kAll / 2 + t * kInWord<Value>;
    left[2 * half] = word_at(a + g * kAll + place);
    left[2 * half + 1] = word_at(a + (g + 8) * kAll + place);
    right[half] = word_at(b + g * kAll + place);
  }
  Sum own[4];
  for (unsigned i = 0; i < 4; ++i) own[i] = sums[(g + i / 2 * 8) * kColumns + 2 * t + i % 2];
  if constexpr (std::is_same_v<Value, std::uint8_t>) {
    cuda::multiply_unsigned_add(own, left, right[0], right[1]);
  } else if constexpr (std::is_same_v<Right, std::uint8_t>) {
    cuda::multiply_add_unsigned(own, left, right[0], right[1]);
  } else {
    cuda::multiply_add(own, left, right[0], right[1]);
  }
  for (unsigned i = 0; i < 4; ++i) sums[(g + i / 2 * 8) * kColumns + 2 * t + i % 2] = own[i];
}

// The same, fragments loaded as matrices from shared memory, whose rows are 48 bytes apart. `b` may
// lie transposed: [places][8], in halfwords.
template <typename Sum, typename Value>
__global__ void product_by_matrices(Sum* sums, const Value* a, const Value* b,
                                    bool b_is_transposed) {
  constexpr unsigned kAll = kPlaces<Value>;
  __shared__ __align__(16) std::byte left[kRows][48];
  __shared__ __align__(16) std::byte right[kRows][48];
  const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
  memcpy(left[lane % kRows], a + lane % kRows * kAll, 32);
  if (b_is_transposed) {
    memcpy(right[lane % kRows], b + lane % kRows * kColumns, kColumns * sizeof(Value));
  } else {
    memcpy(right[lane % kColumns], b + lane % kColumns * kAll, 32);
  }
  __syncwarp();
  unsigned own_left[4], own_right[4];
  // Matrices: rows 0..7 | rows 8..15 | the second half of each.
  cuda::load_matrices(own_left, left[lane % 16] + lane / 16 * 16);
  if (b_is_transposed) {
    cuda::load_matrices_transposed(own_right, right[lane % 16]);
  } else {
    cuda::load_matrices(own_right, right[lane % 8] + lane / 8 % 2 * 16);
  }
  Sum own[4];
  for (unsigned i = 0; i < 4; ++i) own[i] = sums[(g + i / 2 * 8) * kColumns + 2 * t + i % 2];
  cuda::multiply_add(own, own_left, own_right[0], own_right[1]);
  for (unsigned i = 0; i < 4; ++i) sums[(g + i / 2 * 8) * kColumns + 2 * t + i % 2] = own[i];
}

template <typename Value>
std::vector<Value> random_values(std::size_t count, std::uint64_t seed) {
  Rng rng(seed, RngPurpose::kTest);
  std::vector<Value> values(count);
  for (Value& value : values) {
    const auto integer = static_cast<std::int8_t>(static_cast<int>(rng.below(256)) - 128);
    if constexpr (sizeof(Value) == 1) {
      value = static_cast<Value>(integer);
    } else {
      value = to_bfloat16(integer);  // sums are exact in f32
    }
  }
  return values;
}

double number(std::int8_t value) { return value; }
double number(std::uint8_t value) { return value; }
double number(BFloat16 value) { return double{to_float(value)}; }

template <typename Sum, typename Value, typename Right>
std::vector<Sum> expected_sums(const std::vector<Sum>& before, const std::vector<Value>& a,
                               const std::vector<Right>& b) {
  std::vector<Sum> sums = before;
  for (unsigned i = 0; i < kRows; ++i) {
    for (unsigned j = 0; j < kColumns; ++j) {
      double sum = before[i * kColumns + j];
      for (unsigned p = 0; p < kPlaces<Value>; ++p) {
        sum += number(a[i * kPlaces<Value> + p]) * number(b[j * kPlaces<Value> + p]);
      }
      sums[i * kColumns + j] = static_cast<Sum>(sum);
    }
  }
  return sums;
}

Launch warp(unsigned warps = 1) { return {"test", nullptr, dim3(1), 32 * warps}; }

template <typename Sum, typename Value>
void expect_products_of_plain_loops() {
  const auto a = random_values<Value>(kRows * kPlaces<Value>, 1);
  const auto b = random_values<Value>(kColumns * kPlaces<Value>, 2);
  std::vector<Sum> before(kRows * kColumns);
  std::iota(before.begin(), before.end(), Sum{-50});
  const std::vector<Sum> wanted = expected_sums(before, a, b);
  const DeviceArray<Value> left(a), right(b);
  const DeviceArray<Sum> by_hand(before), by_matrices(before);
  launch(warp(), product_by_hand<Sum, Value, Value>, by_hand.get(), left.get(), right.get());
  EXPECT_EQ(by_hand.values(), wanted);
  launch(warp(), product_by_matrices<Sum, Value>, by_matrices.get(), left.get(), right.get(),
         false);
  EXPECT_EQ(by_matrices.values(), wanted);
}

TEST(TensorCore, ProductsOfIntegersAreThoseOfPlainLoops) {
  expect_products_of_plain_loops<std::int32_t, std::int8_t>();
}

template <typename Left, typename Right>
void expect_mixed_products_of_plain_loops() {
  const auto a = random_values<Left>(kRows * 32, 1);
  const auto b = random_values<Right>(kColumns * 32, 2);
  const std::vector<std::int32_t> before(kRows * kColumns, 7);
  const DeviceArray<Left> left(a);
  const DeviceArray<Right> right(b);
  const DeviceArray<std::int32_t> sums(before);
  launch(warp(), product_by_hand<std::int32_t, Left, Right>, sums.get(), left.get(), right.get());
  EXPECT_EQ(sums.values(), expected_sums(before, a, b));
}

TEST(TensorCore, ProductsWithUnsignedIntegersAreThoseOfPlainLoops) {
  expect_mixed_products_of_plain_loops<std::int8_t, std::uint8_t>();
  expect_mixed_products_of_plain_loops<std::uint8_t, std::int8_t>();
}

TEST(TensorCore, ProductsOfBf16AreThoseOfPlainLoops) {
  expect_products_of_plain_loops<float, BFloat16>();
}

TEST(TensorCore, MatricesOfHalfwordsAreTransposed) {
  const auto a = random_values<BFloat16>(kRows * 16, 1), b = random_values<BFloat16>(16 * 8, 2);
  std::vector<BFloat16> turned(b.size());
  for (unsigned p = 0; p < 16; ++p) {
    for (unsigned j = 0; j < 8; ++j) turned[p * 8 + j] = b[j * 16 + p];
  }
  const std::vector<float> before(kRows * kColumns, 0.5f);
  const DeviceArray<BFloat16> left(a), right(turned);
  const DeviceArray<float> sums(before);
  launch(warp(), product_by_matrices<float, BFloat16>, sums.get(), left.get(), right.get(), true);
  EXPECT_EQ(sums.values(), expected_sums(before, a, b));
}

TEST(TensorCore, IntegerSumsWrap) {
  const std::vector<std::int8_t> ones(kRows * 32, 1);
  const DeviceArray<std::int8_t> left(ones), right(ones);
  const DeviceArray<std::int32_t> sums(std::vector<std::int32_t>(kRows * kColumns, 0x7fffffff));
  launch(warp(), product_by_hand<std::int32_t, std::int8_t, std::int8_t>, sums.get(), left.get(),
         right.get());
  for (const std::int32_t sum : sums.values()) EXPECT_EQ(sum, INT32_MIN + 31);
}

// Each thread copies 16 bytes a round, in three stages of shared memory, and reads those of a
// thread of another warp: to[round][thread].
__global__ void copy_rounds(std::uint8_t* to, const std::uint8_t* from, const int* counts,
                            int rounds) {
  auto* const stages = reinterpret_cast<std::uint8_t*>(cuda::dynamic_shared());
  const int size = 16 * static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  constexpr int kStages = 3;
  const auto begin = [&](int round) {
    if (round < rounds) {
      std::uint8_t* const stage = stages + round % kStages * size + 16 * thread;
      const std::uint8_t* const source = from + round * size + 16 * thread;
      cuda::copy_async<8>(stage, source, counts[thread] < 8 ? counts[thread] : 8);
      cuda::copy_async<4>(stage + 8, source + 8, counts[thread] < 8 ? 0 : counts[thread] - 8);
      cuda::copy_async<4>(stage + 12, source + 12, 0);
    }
    cuda::commit_copies();
  };
  for (int round = 0; round < kStages - 1; ++round) begin(round);
  for (int round = 0; round < rounds; ++round) {
    cuda::wait_for_copies<kStages - 2>();
    __syncthreads();
    begin(round + kStages - 1);
    const int other = (thread + 32) % static_cast<int>(blockDim.x);
    memcpy(to + round * size + 16 * thread, stages + round % kStages * size + 16 * other, 16);
  }
}

TEST(TensorCore, CopiesComeInTheirOrderAndFillWithZeros) {
  constexpr int kThreads = 64, kRounds = 5, kBytes = 16 * kThreads;
  std::vector<std::uint8_t> values(kRounds * kBytes);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint8_t>(i % 251);
  std::vector<int> counts(kThreads);
  for (int i = 0; i < kThreads; ++i) counts[static_cast<std::size_t>(i)] = i % 13;
  std::vector<std::uint8_t> wanted(values.size());
  for (std::size_t round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < kBytes; ++i) {
      const std::size_t other = (i / 16 + 32) % kThreads;
      const bool inside = static_cast<int>(i % 16) < counts[other];
      wanted[round * kBytes + i] =
          inside ? values[round * kBytes + 16 * other + i % 16] : std::uint8_t{0};
    }
  }
  const DeviceArray<std::uint8_t> from(values), to(values);
  const DeviceArray<int> lengths(counts);
  Launch how = warp(2);
  how.shared_bytes = 3 * kBytes;
  on_every_kernel_run([&] {
    launch(how, copy_rounds, to.get(), from.get(), lengths.get(), kRounds);
    EXPECT_EQ(to.values(), wanted);
  });
}

__global__ void last_byte(std::uint8_t* to, int bytes) {
  auto* const shared = reinterpret_cast<std::uint8_t*>(cuda::dynamic_shared());
  shared[bytes - 1] = 7;
  to[threadIdx.x] = shared[bytes - 1];
}

TEST(TensorCore, SharedMemoryBeyond48KibIsAskedFor) {
  const DeviceArray<std::uint8_t> to(std::vector<std::uint8_t>(1));
  Launch how{"test", nullptr, dim3(1), 1};
  for (const int bytes : {1, 48 << 10, 99 << 10}) {
    how.shared_bytes = bytes;
    launch(how, last_byte, to.get(), bytes);
    EXPECT_EQ(to.values()[0], 7);
  }
  how.shared_bytes = 1 << 20;
  EXPECT_THROW(launch(how, last_byte, to.get(), 1), Error);
}

}  // namespace
}  // namespace quest
