// Kernels that take several neighbours at once compute the same bits where tensors do not begin at
// multiples of 16 bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <vector>

#include "backend/kernel_cases.h"
#include "tests/cuda_kernels/whole_device.h"

namespace quest {
namespace {

using Bytes = std::vector<std::byte>;

// Tensors on the device that begin `offset` elements behind a multiple of 64 bytes.
class Placed {
 public:
  Placed(Backend& device, std::int64_t offset) : device_(device), offset_(offset) {}
  ~Placed() {
    for (const Tensor& whole : wholes_) device_.deallocate(whole.data, whole.bytes());
  }
  Placed(const Placed&) = delete;
  Placed& operator=(const Placed&) = delete;

  Tensor copy_of(Tensor host) {
    const std::size_t element = size_bytes(host.dtype);
    const std::size_t bytes = (static_cast<std::size_t>(host.numel()) + 16) * element;
    wholes_.emplace_back(device_.allocate(bytes), Shape{static_cast<std::int64_t>(bytes)},
                         DType::kU8, Place::kCuda);
    auto* const data = static_cast<std::byte*>(wholes_.back().data);
    const Tensor placed(data + static_cast<std::size_t>(offset_) * element, host.shape, host.dtype,
                        Place::kCuda);
    device_.copy(placed, host);
    return placed;
  }
  Bytes read(Tensor tensor) {
    Bytes bytes(tensor.bytes());
    device_.copy(Tensor(bytes.data(), tensor.shape, tensor.dtype), tensor);
    return bytes;
  }

 private:
  Backend& device_;
  std::int64_t offset_;
  std::deque<Tensor> wholes_;
};

// What run(device, placed) returns is the same wherever tensors begin.
template <typename Run>
void expect_same_bits_anywhere(const Run& run) {
  const auto device = cuda_backend();
  Placed aligned(*device, 0);
  const auto wanted = run(*device, aligned);
  for (const std::int64_t offset : {1, 3}) {
    Placed placed(*device, offset);
    EXPECT_TRUE(run(*device, placed) == wanted) << "begins at element " << offset;
  }
}

OwnedTensor normal(Shape shape, DType dtype, std::uint64_t seed) {
  OwnedTensor tensor(shape, dtype);
  fill_normal(tensor, seed);
  return tensor;
}

TEST(Unaligned, SumsHaveTheSameBits) {
  for (const std::int64_t count : {5, 1000, 70001}) {
    const OwnedTensor values = normal({count}, DType::kF32, 1), zero({1}, DType::kF64);
    expect_same_bits_anywhere([&](Backend& device, Placed& placed) {
      const Tensor x = placed.copy_of(values);
      const Tensor sum = placed.copy_of(zero), squares = placed.copy_of(zero);
      device.sum(sum, x);
      device.sum_squares(squares, x);
      return std::vector{placed.read(sum), placed.read(squares)};
    });
  }
}

TEST(Unaligned, SumsOfMorePartsThanThreadsThatAddThemTakeEach) {
  const std::int64_t count = (std::int64_t{1} << 25) + (1 << 15) + 1;
  const OwnedTensor values({count}, DType::kF32), zero({1}, DType::kF64);
  std::fill_n(values.view().as<float>(), count, 1.0f);
  const auto device = cuda_backend();
  Placed placed(*device, 0);
  const Tensor total = placed.copy_of(zero);
  device->sum(total, placed.copy_of(values));
  double got = 0;
  device->copy(view_of(&got, {1}), total);
  EXPECT_EQ(got, static_cast<double>(count));
}

TEST(Unaligned, UpdatesHaveTheSameBitsAndEndWithTheTensor) {
  constexpr std::int64_t kCount = 1003, kBehind = 5;
  float scale = 0.7f;
  const AdamWStep step{1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 3};
  AdamWFactors factors = adamw_factors(step);
  const OwnedTensor values = normal({1, kCount + kBehind}, DType::kF32, 1);
  const OwnedTensor gradients = normal({1, kCount + kBehind}, DType::kF32, 2);
  const auto updated = [&](const Tensor& whole) { return whole.columns(0, kCount); };
  for (const int bits : {32, 16, 8}) {
    const DType wide = bits == 32 ? DType::kF32 : DType::kBF16;
    const OwnedTensor first({1, kCount + kBehind}, bits == 8 ? DType::kI8 : wide);
    const OwnedTensor second({1, kCount + kBehind}, bits == 8 ? DType::kU8 : wide);
    const OwnedTensor scales({(kCount + kMomentBlock - 1) / kMomentBlock}, DType::kF32);
    expect_same_bits_anywhere([&](Backend& device, Placed& placed) {
      const Tensor parameter = placed.copy_of(values), gradient = placed.copy_of(gradients);
      const Tensor m = placed.copy_of(first), v = placed.copy_of(second);
      const Tensor m_scales = placed.copy_of(scales), v_scales = placed.copy_of(scales);
      AdamWStep there = step;
      there.on_device = placed.copy_of(view_of(&factors.beta1, {kAdamWFactors}));
      const Tensor grad_scale = placed.copy_of(view_of(&scale, {1}));
      for (int i = 0; i < 2; ++i) {
        device.adamw(updated(parameter), {updated(m), bits == 8 ? m_scales : Tensor()},
                     {updated(v), bits == 8 ? v_scales : Tensor()}, updated(gradient), grad_scale,
                     there);
      }
      return std::vector{placed.read(parameter), placed.read(m), placed.read(v),
                         placed.read(m_scales), placed.read(v_scales)};
    });
  }
}

TEST(Unaligned, CrossEntropyHasTheSameBits) {
  constexpr std::int64_t kRows = 3, kVocab = 9000;
  const OwnedTensor values = normal({kRows, kVocab}, DType::kF32, 1);
  const OwnedTensor places({kRows}, DType::kI32), zero({kRows}, DType::kF32);
  const OwnedTensor flags({kRows}, DType::kU8), gradient({kRows, kVocab}, DType::kBF16);
  places.view().as<std::int32_t>()[1] = 8999;
  places.view().as<std::int32_t>()[2] = -1;
  expect_same_bits_anywhere([&](Backend& device, Placed& placed) {
    const Tensor losses = placed.copy_of(zero), d_logits = placed.copy_of(gradient);
    device.cross_entropy(losses, placed.copy_of(flags), d_logits, placed.copy_of(values),
                         placed.copy_of(places), 0.5f);
    return std::vector{placed.read(losses), placed.read(d_logits)};
  });
}

}  // namespace
}  // namespace quest
