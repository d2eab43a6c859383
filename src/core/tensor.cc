// Shape and Tensor: sizes, slices and type checks.
#include "core/tensor.h"

#include <cassert>

#include "core/error.h"

namespace quest {
namespace {

struct DTypeInfo {
  DType dtype;
  std::size_t bytes;
  std::string_view name;
};

constexpr std::array<DTypeInfo, 9> kDTypes{{{DType::kF32, 4, "F32"},
                                            {DType::kBF16, 2, "BF16"},
                                            {DType::kF64, 8, "F64"},
                                            {DType::kI8, 1, "I8"},
                                            {DType::kU8, 1, "U8"},
                                            {DType::kU16, 2, "U16"},
                                            {DType::kI32, 4, "I32"},
                                            {DType::kU32, 4, "U32"},
                                            {DType::kI64, 8, "I64"}}};

const DTypeInfo& info(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::size_t size_bytes(DType dtype) { return info(dtype).bytes; }
std::string_view name(DType dtype) { return info(dtype).name; }

DType dtype_from_name(std::string_view name) {
  for (const DTypeInfo& entry : kDTypes) {
    if (entry.name == name) return entry.dtype;
  }
  fail("element type '{}' is not supported", name);
}

Shape::Shape(std::initializer_list<std::int64_t> sizes) {
  assert(sizes.size() <= kMaxRank);
  for (const std::int64_t size : sizes) {
    assert(size >= 0);
    sizes_[static_cast<std::size_t>(rank_++)] = size;
  }
}

std::int64_t Shape::numel() const {
  std::int64_t product = 1;
  for (int axis = 0; axis < rank_; ++axis) product *= (*this)[axis];
  return product;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string((*this)[axis]);
  }
  return text + "]";
}

Tensor::Tensor(void* data_in, Shape shape_in, DType dtype_in, Place place_in)
    : data(data_in), shape(shape_in), dtype(dtype_in), place(place_in) {
  row_stride = cols();
}

Tensor Tensor::rows_slice(std::int64_t begin, std::int64_t end) const {
  assert(shape.rank() >= 1 && 0 <= begin && begin <= end);
  Tensor slice = *this;
  const bool is_vector = shape.rank() == 1;
  assert(end <= (is_vector ? cols() : rows()));
  const std::int64_t offset = is_vector ? begin : begin * row_stride;
  slice.data = static_cast<std::byte*>(data) + static_cast<std::size_t>(offset) * size_bytes(dtype);
  slice.shape = is_vector ? Shape{end - begin} : Shape{end - begin, cols()};
  if (is_vector) slice.row_stride = end - begin;
  return slice;
}

Tensor Tensor::columns(std::int64_t begin, std::int64_t end) const {
  assert(0 <= begin && begin <= end && end <= cols());
  Tensor slice = *this;
  slice.data = static_cast<std::byte*>(data) + static_cast<std::size_t>(begin) * size_bytes(dtype);
  slice.shape = Shape{rows(), end - begin};
  return slice;
}

Tensor Tensor::reshaped(Shape new_shape) const {
  assert(is_contiguous() && new_shape.numel() == numel());
  return Tensor(data, new_shape, dtype, place);
}

void Tensor::check_type([[maybe_unused]] DType wanted) const { assert(dtype == wanted); }

}  // namespace quest
