// Packed rows that own their memory: for tests.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "backend/backend.h"
#include "backend/kernel_cases.h"
#include "quant/packing.h"

namespace quest {

/// Bytes, zero at first, that end where a page begins that may not be read: a kernel that reads on
/// ends the test.
class BytesBeforeClosedPage {
 public:
  explicit BytesBeforeClosedPage(std::size_t size) : open_((size + kPage - 1) / kPage * kPage) {
    void* const memory =
        ::mmap(nullptr, open_ + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    pages_ = static_cast<std::uint8_t*>(memory);
    data_ = pages_ + open_ - size;
    ::mprotect(pages_ + open_, kPage, PROT_NONE);
  }
  ~BytesBeforeClosedPage() { ::munmap(pages_, open_ + kPage); }
  BytesBeforeClosedPage(const BytesBeforeClosedPage&) = delete;
  BytesBeforeClosedPage& operator=(const BytesBeforeClosedPage&) = delete;
  std::uint8_t* data() const { return data_; }

 private:
  static constexpr std::size_t kPage = 4096;
  std::size_t open_;
  std::uint8_t* pages_;
  std::uint8_t* data_;
};

/// The rows as they lie in a file.
struct OwnedPackedRows {
  BytesBeforeClosedPage bytes;
  std::vector<float> steps;
  std::vector<std::int32_t> code_sums;
  PackedRows rows;

  OwnedPackedRows(const OwnedQuantizedRows& plain, int bits)
      : bytes(static_cast<std::size_t>(plain.codes.view().rows() *
                                       packed_row_bytes(plain.codes.view().cols(), bits))),
        steps(plain.steps.view().as<float>(),
              plain.steps.view().as<float>() + plain.codes.view().rows()),
        code_sums(plain.code_sums.view().as<std::int32_t>(),
                  plain.code_sums.view().as<std::int32_t>() + plain.codes.view().rows()) {
    const Tensor codes = plain.codes;
    rows.bits = bits;
    rows.columns = codes.cols();
    rows.codes = view_of(bytes.data(), {codes.rows(), packed_row_bytes(codes.cols(), bits)});
    rows.steps = view_of(steps.data(), {codes.rows()});
    rows.code_sums = view_of(code_sums.data(), {codes.rows()});
    for (std::int64_t r = 0; r < codes.rows(); ++r) {
      pack_codes(rows.codes.row<std::uint8_t>(r), codes.row<std::int8_t>(r), codes.cols(), bits);
    }
  }
};

}  // namespace quest
