// One row of two bits by rows of two bits with AVX-512: xor and the count of ones, on fields as
// they lie in a file.
//
// 2 q + 1 of a code u = q + 2 of two bits is 2 s + t, where s and t are 1 for a bit that is set and
// -1 for one that is not. A product of two such numbers is 4 s s' + 2 (s t' + t s') + t t', and a
// product of signs is 1 - 2 (xor of their bits): 9 - 2 (4 s^s' + 2 (s^t' + t^s') + t^t') in all.

namespace quest {
namespace {

/// The bits of each field of two, swapped.
inline __m512i swapped_pairs(__m512i fields) {
  const __m512i low = _mm512_set1_epi8(0x55);
  return _mm512_or_si512(_mm512_slli_epi16(_mm512_and_si512(fields, low), 1),
                         _mm512_and_si512(_mm512_srli_epi16(fields, 1), low));
}

/// 16 bytes of fields of the 64 codes at `codes`, of which those that are not valid give zeros.
inline __m128i bit_pairs(const std::int8_t* codes, __mmask64 valid) {
  const __m512i fields =
      _mm512_maskz_add_epi8(valid, _mm512_maskz_loadu_epi8(valid, codes), _mm512_set1_epi8(2));
  const __m512i two = _mm512_maddubs_epi16(fields, _mm512_set1_epi16(0x0401));
  const __m512i four = _mm512_madd_epi16(two, _mm512_set1_epi32(0x00100001));
  return _mm512_cvtepi32_epi8(four);
}

void pack_bit_pairs(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns) {
  const std::int64_t half = bit_pairs_row_bytes(columns) / 2;
  for (std::int64_t k = 0; k < 4 * half; k += 64) {
    const __mmask64 valid = k < columns ? first_bytes(columns - k) : 0;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k / 4), bit_pairs(codes + k, valid));
  }
  for (std::int64_t at = 0; at < half; at += 64) {
    _mm512_storeu_si512(out + half + at, swapped_pairs(_mm512_loadu_si512(out + at)));
  }
}

/// Lines of x that stay in registers, as they are and swapped.
constexpr int kHeldPairs = 11;

/// Ones of a row of w and x as in the file, of these the ones of high bits, and the ones of w and
/// x swapped.
struct PairSums {
  __m512i straight = _mm512_setzero_si512();
  __m512i high = _mm512_setzero_si512();
  __m512i crossed = _mm512_setzero_si512();

  inline __attribute__((always_inline)) void add(__m512i w, __m512i x, __m512i swapped) {
    constexpr int kXorAnd = (0xf0 ^ 0xcc) & 0xaa;
    straight = add_ones_of_64(straight, _mm512_xor_si512(w, x));
    high = add_ones_of_64(high, _mm512_ternarylogic_epi64(w, x, _mm512_set1_epi8(-86), kXorAnd));
    crossed = add_ones_of_64(crossed, _mm512_xor_si512(w, swapped));
  }
  __m512i total() const {
    const __m512i twice = _mm512_add_epi64(high, crossed);
    return _mm512_add_epi64(_mm512_add_epi64(straight, high), _mm512_add_epi64(twice, twice));
  }
};

/// The sum over the lanes of 64 bits is that of xor_pairs_dot for a row of w of `bytes` bytes.
template <int... each>
inline __attribute__((always_inline)) __m512i pairs_of_row(
    Accumulators<sizeof...(each)>& held, Accumulators<sizeof...(each)>& swapped, const PackedDot& d,
    const std::uint8_t* w, std::int64_t bytes, Indices<int, each...>) {
  PairSums sums;
  static_cast<void>((
      (64 * (each + 1) <= bytes && (sums.add(_mm512_loadu_si512(w + 64 * each),
                                             held.template at<each>(), swapped.template at<each>()),
                                    true)) &&
      ...));
  const std::int64_t of_held = 64 * sizeof...(each);
  for (std::int64_t at = bytes < of_held ? bytes / 64 * 64 : of_held; at < bytes; at += 64) {
    sums.add(_mm512_maskz_loadu_epi8(first_bytes(bytes - at), w + at), _mm512_loadu_si512(d.x + at),
             _mm512_loadu_si512(d.x + d.x_row_bytes / 2 + at));
  }
  return sums.total();
}

template <int vectors = kHeldPairs>
void xor_pairs_dot(const PackedDot& d) {
  constexpr QUEST_INDICES(vectors) kAll;
  const std::int64_t bytes = (d.k + 3) / 4;
  Accumulators<vectors> held, swapped;
  hold(held, d.x, d.x_row_bytes / 2, kAll);
  hold(swapped, d.x + d.x_row_bytes / 2, d.x_row_bytes / 2, kAll);
  for (std::int64_t j = 0; j < d.columns; j += 4) {
    const FourRows w(d, j);
    Accumulators<4> sums;
    sums.at<0>() = pairs_of_row(held, swapped, d, w.row[0], bytes, kAll);
    sums.at<1>() = pairs_of_row(held, swapped, d, w.row[1], bytes, kAll);
    sums.at<2>() = pairs_of_row(held, swapped, d, w.row[2], bytes, kAll);
    sums.at<3>() = pairs_of_row(held, swapped, d, w.row[3], bytes, kAll);
    put_ones<1>(sums, d.sums + j, d.stride);
  }
}

}  // namespace
}  // namespace quest
