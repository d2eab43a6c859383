// Tests of tensor views.
#include "core/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"

namespace quest {
namespace {

TEST(Tensor, ColumnSlicesKeepTheRowStride) {
  std::vector<float> data(12);
  for (int i = 0; i < 12; ++i) data[static_cast<std::size_t>(i)] = static_cast<float>(i);
  const Tensor whole = view_of(data.data(), {3, 4});
  const Tensor slice = whole.columns(1, 3);
  EXPECT_EQ(slice.shape, (Shape{3, 2}));
  EXPECT_FALSE(slice.is_contiguous());
  EXPECT_EQ(slice.row<float>(2)[1], 10.0f);
  EXPECT_EQ(slice.rows_slice(1, 3).row<float>(0)[0], 5.0f);
}

TEST(Tensor, OuterAxesCountAsRows) {
  std::vector<float> data(24);
  const Tensor tensor = view_of(data.data(), {2, 3, 4});
  EXPECT_EQ(tensor.rows(), 6);
  EXPECT_EQ(tensor.cols(), 4);
  EXPECT_EQ(tensor.reshaped({6, 4}).shape, (Shape{6, 4}));
}

TEST(DType, NamesRoundTripAndUnknownNamesAreErrors) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64, DType::kI8, DType::kU8,
                            DType::kU16, DType::kI32, DType::kU32, DType::kI64}) {
    EXPECT_EQ(dtype_from_name(name(dtype)), dtype);
  }
  EXPECT_THROW(dtype_from_name("F13"), Error);
}

TEST(BFloat16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(to_bfloat16(1.0f).bits, 0x3f80);
  EXPECT_EQ(to_bfloat16(1.0f + 0x1p-8f).bits, 0x3f80);      // tie, to even
  EXPECT_EQ(to_bfloat16(1.0f + 3 * 0x1p-8f).bits, 0x3f82);  // tie, to even
  EXPECT_EQ(to_bfloat16(1.0f + 0x1p-8f + 0x1p-20f).bits, 0x3f81);
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(to_float(to_bfloat16(std::numeric_limits<float>::infinity()))));
}

}  // namespace
}  // namespace quest
