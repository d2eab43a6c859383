// Tensor: a typed view of memory that somebody else owns, and the shape and type it carries.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "core/bfloat16.h"

namespace quest {

/// Element types, in memory and in files.
enum class DType : std::uint8_t { kF32, kBF16, kF64, kI8, kU8, kU16, kI32, kU32, kI64 };

std::size_t size_bytes(DType dtype);
/// The name that safetensors uses: "F32", "BF16", "I8", ...
std::string_view name(DType dtype);
/// Inverse of `name`. Throws Error on a name that is not one of ours.
DType dtype_from_name(std::string_view name);

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<std::int8_t> {
  static constexpr DType value = DType::kI8;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOf<std::uint16_t> {
  static constexpr DType value = DType::kU16;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<std::uint32_t> {
  static constexpr DType value = DType::kU32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::kI64;
};

/// Up to four sizes, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes);

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return sizes_[static_cast<std::size_t>(axis)]; }
  /// Number of elements; 1 for rank 0.
  std::int64_t numel() const;
  bool operator==(const Shape&) const = default;
  /// "[32, 128]".
  std::string to_string() const;

 private:
  std::array<std::int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

/// Where a tensor's memory lies.
enum class Place : std::uint8_t { kHost, kCuda };

/// A trivially copyable view: it owns nothing, and copying it copies no elements.
///
/// Elements are row-major. All axes but the last are read as one axis of `rows()`, and consecutive
/// rows lie `row_stride` elements apart, so a slice of columns is a tensor too. Kernels that accept
/// such a slice say so; all others want `is_contiguous()`.
struct Tensor {
  void* data = nullptr;
  Shape shape;
  std::int64_t row_stride = 0;
  DType dtype = DType::kF32;
  Place place = Place::kHost;

  Tensor() = default;
  /// A contiguous view of `data`.
  Tensor(void* data, Shape shape, DType dtype, Place place = Place::kHost);

  explicit operator bool() const { return data != nullptr; }
  std::int64_t numel() const { return shape.numel(); }
  /// Size of the last axis; 1 for rank 0.
  std::int64_t cols() const { return shape.rank() == 0 ? 1 : shape[shape.rank() - 1]; }
  /// Product of all axes but the last.
  std::int64_t rows() const { return cols() == 0 ? 0 : numel() / cols(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_bytes(dtype); }
  bool is_contiguous() const { return row_stride == cols() || rows() <= 1; }

  /// The elements as `T*`; asserts that `T` is this tensor's type.
  template <typename T>
  T* as() const {
    check_type(DTypeOf<T>::value);
    return static_cast<T*>(data);
  }
  /// Row `r` as `T*`.
  template <typename T>
  T* row(std::int64_t r) const {
    return as<T>() + r * row_stride;
  }

  /// Rows [begin, end), as a tensor of rank 2 (rank 1 if this has rank 1).
  Tensor rows_slice(std::int64_t begin, std::int64_t end) const;
  /// Columns [begin, end) of every row, as a tensor of rank 2.
  Tensor columns(std::int64_t begin, std::int64_t end) const;
  /// The same elements in another shape; this must be contiguous and of as many elements.
  Tensor reshaped(Shape new_shape) const;

 private:
  void check_type(DType wanted) const;
};

/// A host view of `count` elements that the caller owns.
template <typename T>
Tensor view_of(T* data, Shape shape) {
  return Tensor(const_cast<std::remove_const_t<T>*>(data), shape,
                DTypeOf<std::remove_const_t<T>>::value);
}

}  // namespace quest
