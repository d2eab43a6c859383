// The UTF-8 checker: a fast path for ASCII and the table of well-formed byte sequences.
#include "data/utf8.h"

#include <cstdint>
#include <cstring>

#include "core/error.h"

namespace quest {
namespace {

struct Sequence {
  int length;         ///< 0 for a byte that cannot start a character.
  unsigned char low;  ///< Range of the second byte.
  unsigned char high;
};

Sequence sequence_of(unsigned char lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Check check_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  const std::size_t size = text.size();
  std::size_t at = 0;
  while (at < size) {
    if (at + 8 <= size) {
      std::uint64_t word;
      std::memcpy(&word, bytes + at, 8);
      if ((word & 0x8080808080808080u) == 0) {
        at += 8;
        continue;
      }
    }
    const Sequence sequence = sequence_of(bytes[at]);
    if (sequence.length == 0) return {at, false};
    for (std::size_t k = 1; k < static_cast<std::size_t>(sequence.length); ++k) {
      if (at + k == size) return {at, true};
      const unsigned char low = k == 1 ? sequence.low : 0x80;
      const unsigned char high = k == 1 ? sequence.high : 0xBF;
      if (bytes[at + k] < low || bytes[at + k] > high) return {at, false};
    }
    at += static_cast<std::size_t>(sequence.length);
  }
  return {size, false};
}

void require_utf8(std::string_view text, const std::string& name) {
  const std::size_t valid = check_utf8(text).valid_bytes;
  if (valid == text.size()) return;
  fail("{} is not valid UTF-8 at byte {}: give text in UTF-8", name, valid);
}

}  // namespace quest
