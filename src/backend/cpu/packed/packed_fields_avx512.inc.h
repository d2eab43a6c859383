// The layout of packed codes and of the x that meets them: fields of w unpacked in registers.
//
// Fields of 1, 2 and 4 bits need no shift: a field stays at its place in the byte, its products add
// up in accumulators of that place, and one shift of the sums at the end takes the place out again.
// x lies in the order in which the fields come. Fields of other widths are moved to bytes by VBMI
// where the CPU has it, else through memory.

namespace quest {
namespace {

/// How a row of b-bit fields is cut: chunks of `kBytes` bytes of w hold `kPlaces` vectors of 64.
template <int bits>
struct Cut {
  static constexpr bool kByPlace = 8 % bits == 0;
  static constexpr int kPlaces = kByPlace ? 8 / bits : 1;
  static constexpr int kBytes = kByPlace ? 64 : 8 * bits;
  static constexpr int kCodes = 64 * kPlaces;
};

#if defined(__AVX512VBMI__)
template <int bits>
void unpack_vectors(std::int8_t* codes, const std::uint8_t* packed, std::int64_t columns) {
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(1 << (bits - 1)));
  for (std::int64_t k = 0; k < columns; k += 64, packed += 8 * bits) {
    const std::int64_t left = columns - k < 64 ? columns - k : 64;
    const __m512i stream = _mm512_maskz_loadu_epi8(first_bytes((left * bits + 7) / 8), packed);
    const __m512i bytes = bits == 8 ? stream : spread<bits>(stream);
    _mm512_mask_storeu_epi8(codes + k, first_bytes(left), _mm512_sub_epi8(bytes, offset));
  }
}
using Unpack = void (*)(std::int8_t*, const std::uint8_t*, std::int64_t);
inline Unpack unpack_of(int bits) { QUEST_FOR_BITS(bits, unpack_vectors) }
#else
template <int bits>
inline __m512i spread(__m512i stream) {
  alignas(64) std::uint8_t bytes[64];
  alignas(64) std::int8_t codes[64];
  _mm512_store_si512(bytes, stream);
  unpack_bits<bits>(codes, bytes, 64);
  return _mm512_add_epi8(_mm512_load_si512(codes),
                         _mm512_set1_epi8(static_cast<char>(1 << (bits - 1))));
}
using Unpack = void (*)(std::int8_t*, const std::uint8_t*, std::int64_t);
inline Unpack unpack_of(int bits) { QUEST_FOR_BITS(bits, unpack_bits) }
#endif

void unpack_row(std::int8_t* codes, const std::uint8_t* packed, std::int64_t columns, int bits) {
  unpack_of(bits)(codes, packed, columns);
}

// --- Fields in registers ---

/// Place p of the fields of w, left where it lies.
template <int bits, int place>
inline __m512i field_in_place(__m512i w) {
  if constexpr (bits == 8) return w;
  if constexpr (!Cut<bits>::kByPlace) return spread<bits>(w);
  constexpr int kMask = ((1 << bits) - 1) << (bits * place);
  return _mm512_and_si512(w, _mm512_set1_epi8(static_cast<char>(kMask)));
}
/// The same, moved to the lowest bits.
template <int bits, int place>
inline __m512i field_moved(__m512i w) {
  if constexpr (bits == 8) return w;
  if constexpr (!Cut<bits>::kByPlace) return spread<bits>(w);
  const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
  return _mm512_and_si512(place == 0 ? w : _mm512_srli_epi16(w, bits * place), mask);
}

// --- The layout of x ---

std::int64_t x_row_bytes(std::int64_t columns, int bits) {
  const std::int64_t codes = 8 % bits == 0 ? 64 * (8 / bits) : 64;
  return (columns + codes - 1) / codes * codes;
}

/// Byte `place` of every group of `places` of 64 codes, in the lowest bytes.
template <int places, int place>
inline void store_place(std::uint8_t* out, __m512i codes) {
  if constexpr (places == 2) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm512_cvtepi16_epi8(_mm512_srli_epi16(codes, 8 * place)));
  } else if constexpr (places == 4) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm512_cvtepi32_epi8(_mm512_srli_epi32(codes, 8 * place)));
  } else {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out),
                     _mm512_cvtepi64_epi8(_mm512_srli_epi64(codes, 8 * place)));
  }
}

/// Whole chunks: vector p of a chunk has code p of every group of `places`.
template <int places, int... each>
inline void pack_chunks(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns,
                        Indices<int, each...>) {
  for (std::int64_t k = 0; k < columns; k += 64 * places) {
    for (std::int64_t part = 0; part < places; ++part) {
      const __m512i values = _mm512_loadu_si512(codes + k + 64 * part);
      std::uint8_t* const to = out + k + 64 / places * part;
      (store_place<places, each>(to + 64 * each, values), ...);
    }
  }
}
template <int places>
inline void pack_chunks(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns) {
  constexpr QUEST_INDICES(places) kEach;
  pack_chunks<places>(out, codes, columns, kEach);
}

void pack_x(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns, int bits) {
  const std::int64_t places = 8 % bits == 0 ? 8 / bits : 1;
  const std::int64_t chunk = 64 * places;
  const std::int64_t whole = columns / chunk * chunk;
  if (places == 1) __builtin_memcpy(out, codes, static_cast<std::size_t>(whole));
  if (places == 2) pack_chunks<2>(out, codes, whole);
  if (places == 4) pack_chunks<4>(out, codes, whole);
  if (places == 8) pack_chunks<8>(out, codes, whole);
  if (whole == columns) return;
  __builtin_memset(out + whole, 0, static_cast<std::size_t>(chunk));
  for (std::int64_t k = whole; k < columns; ++k) {
    const std::int64_t i = k - whole;
    out[whole + i % places * 64 + i / places] = static_cast<std::uint8_t>(codes[k]);
  }
}

}  // namespace
}  // namespace quest
