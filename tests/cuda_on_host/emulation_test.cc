// That the emulation shows errors of kernels: copies that nobody waits for, banks that are met
// twice, shared memory that was not asked for.
#include <gtest/gtest.h>

#include "backend/cuda/kernel_order.cuh"
#include "backend/cuda/tensor_core.cuh"
#include "tests/cuda_kernels/kernel_runs.h"

namespace quest {
namespace {

// Copies and reads 16 bytes; waits for all copies, or for all but the last.
template <int kPending>
__global__ void copy_and_read(std::uint8_t* to, const std::uint8_t* from) {
  std::byte* const shared = cuda::dynamic_shared();
  cuda::copy_async<16>(shared, from, 16);
  cuda::commit_copies();
  cuda::wait_for_copies<kPending>();
  std::memcpy(to, shared, 16);
  cuda::wait_for_copies<0>();
}

TEST(Emulation, AMissingWaitGivesWrongBytes) {
  const std::vector<std::uint8_t> values(16, 5);
  const DeviceArray<std::uint8_t> from(values), to(values), early(values);
  const Launch how{"test", nullptr, dim3(1), 1, 16};
  launch(how, copy_and_read<0>, to.get(), from.get());
  EXPECT_EQ(to.values(), values);
  launch(how, copy_and_read<1>, early.get(), from.get());
  EXPECT_NE(early.values(), values);
}

__global__ void end_without_waiting(const std::uint8_t* from) {
  cuda::copy_async<16>(cuda::dynamic_shared(), from, 16);
  cuda::commit_copies();
}

TEST(EmulationDeathTest, AThreadThatEndsBeforeItsCopiesIsNamed) {
  const DeviceArray<std::uint8_t> from(std::vector<std::uint8_t>(16, 5));
  EXPECT_DEATH(launch(Launch{"test", nullptr, dim3(1), 1, 16}, end_without_waiting, from.get()),
               "copies that it did not wait for");
}

__global__ void load_rows(unsigned* to, unsigned pitch) {
  std::byte* const row = cuda::dynamic_shared() + threadIdx.x * pitch;
  std::memset(row, 1, 16);
  __syncwarp();
  unsigned words[4];
  cuda::load_matrices(words, row);
  to[threadIdx.x] = words[0];
}

TEST(Emulation, LoadsThatShareBanksAreCounted) {
  const DeviceArray<unsigned> to(std::vector<unsigned>(32));
  const Launch how{"test", nullptr, dim3(1), 32, 32 * 144};
  cuda_on_host::take_matrix_loads();
  for (const auto& [pitch, conflicting] : {std::pair{144u, 0}, {128u, 4}, {80u, 0}, {64u, 4}}) {
    launch(how, load_rows, to.get(), pitch);
    const cuda_on_host::MatrixLoads loads = cuda_on_host::take_matrix_loads();
    EXPECT_EQ(loads.all, 4);
    EXPECT_EQ(loads.conflicting, conflicting) << pitch;
  }
}

TEST(Emulation, SharedMemoryThatWasNotAskedForFailsTheLaunch) {
  const DeviceArray<unsigned> to(std::vector<unsigned>(32));
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(32);
  config.dynamicSmemBytes = 60 << 10;
  EXPECT_EQ(cudaLaunchKernelEx(&config, load_rows, to.get(), 144u), cudaErrorInvalidConfiguration);
}

// Where a kernel waits for the one before: not at all, in one thread only, after a read, or after
// one of what no kernel writes.
enum class Waits { kNever, kInOneThread, kAfterAReading, kAfterAConstant };

template <Waits kWaits>
__global__ void read_around_the_wait(uint4* to, const uint4* from) {
  cuda::admit_next_kernel();
  uint4 value = make_uint4(0, 0, 0, 0);
  if constexpr (kWaits == Waits::kAfterAReading) value = *from;
  if constexpr (kWaits == Waits::kAfterAConstant) value = cuda::load_constant(from);
  if (kWaits != Waits::kNever && (kWaits != Waits::kInOneThread || threadIdx.x == 0)) {
    cuda::await_last_kernel();
  }
  if (threadIdx.x == 0 && kWaits != Waits::kNever) *to = value;
}

template <Waits kWaits>
std::vector<unsigned> run_around_the_wait() {
  const DeviceArray<unsigned> from({1, 2, 3, 4}), to({0, 0, 0, 0});
  cudaStream_t stream = nullptr;
  cudaStreamCreate(&stream);
  const cuda::OwnedStream owner(stream);
  launch(Launch{"test", stream, dim3(1), 32}, read_around_the_wait<kWaits>,
         reinterpret_cast<uint4*>(to.get()), reinterpret_cast<const uint4*>(from.get()));
  return to.values();
}

TEST(EmulationDeathTest, AKernelThatIsBegunEarlyMustWaitBeforeItReads) {
  EXPECT_EQ(run_around_the_wait<Waits::kAfterAConstant>(), (std::vector<unsigned>{1, 2, 3, 4}));
  EXPECT_DEATH(run_around_the_wait<Waits::kNever>(), "has not waited for the kernel before");
  EXPECT_DEATH(run_around_the_wait<Waits::kInOneThread>(), "has not waited for the kernel before");
  EXPECT_DEATH(run_around_the_wait<Waits::kAfterAReading>(), "");
}

TEST(Emulation, CodeForLessThan90IsNotBegunEarly) {
  EXPECT_TRUE(kernels_overlap());
  cuda_on_host::set_capability(8, 6);
  EXPECT_FALSE(kernels_overlap());
  cuda_on_host::set_capability(9, 0);
}

}  // namespace
}  // namespace quest
