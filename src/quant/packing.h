// Packing of codes: b bits a code, in one stream of bits a row.
#pragma once

#include <cstdint>

namespace quest {

/// A row of K codes of b bits (1..8) is a stream of bits: code k, as the unsigned number
/// u = q + 2^(b-1), takes the bits [k b, (k + 1) b) of the row; bit i of a row is bit i % 8 of its
/// byte i / 8, lowest first. Rows start at whole bytes, and what the last byte has left is 0.
///
/// Bytes of a row of `columns` codes.
std::int64_t packed_row_bytes(std::int64_t columns, int bits);

/// packed [packed_row_bytes] = codes [columns], each in -2^(b-1) .. 2^(b-1)-1.
void pack_codes(std::uint8_t* packed, const std::int8_t* codes, std::int64_t columns, int bits);

/// The inverse: codes [columns] = packed [packed_row_bytes].
void unpack_codes(std::int8_t* codes, const std::uint8_t* packed, std::int64_t columns, int bits);

/// The sum of a packed row's codes.
std::int32_t packed_code_sum(const std::uint8_t* packed, std::int64_t columns, int bits);

/// Whether the bits after a row's last code are 0, as products of one-bit rows want them.
bool packed_tail_is_zero(const std::uint8_t* packed, std::int64_t columns, int bits);

}  // namespace quest
