// Packed products with VNNI: weights are unpacked in registers (packed_fields_avx512.inc.h) and
// multiplied as unsigned bytes.

namespace quest {
namespace {

// --- Integer products ---

// Rows of w lie one after another, and are read so where that is all there is to do: hardware then
// reads ahead, and software asks the second level for what comes later. Four rows side by side, or
// software asking the first level, read from memory at half the rate on a Zen 4 (docs/log.md).

/// Chunks of a row of w that the loop for `rows` rows of x takes a turn: those that make four
/// accumulators, so that none waits for the one before.
template <int bits, int rows>
constexpr int kChunksOfTurn = 4 <= Cut<bits>::kPlaces* rows ? 1 : 4 / (Cut<bits>::kPlaces * rows);

/// How far ahead to ask, in bytes.
template <int bits, int rows>
constexpr std::int64_t kBytesAhead = bits == 8 && rows == 1 ? 1024 : 12288;

inline __attribute__((always_inline)) void ask_ahead(const std::uint8_t* at) {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
}

/// Cell c of a row of w against `kRows` rows of x, of row c % kRows of x and a place of a chunk.
template <int bits, int kRows, int cell, typename Sums>
inline __attribute__((always_inline)) void add_cell(Sums& sums, const PackedDot& d,
                                                    const std::uint8_t* w, const std::uint8_t* x,
                                                    __mmask64 valid) {
  constexpr int kVector = cell / kRows;
  constexpr int kPlace = kVector % Cut<bits>::kPlaces;
  const std::uint8_t* const chunk = w + kVector / Cut<bits>::kPlaces * Cut<bits>::kBytes;
  if constexpr (cell % (kRows * Cut<bits>::kPlaces) == 0) {
    ask_ahead(chunk + kBytesAhead<bits, kRows>);
  }
  dot_bytes(sums.template at<cell>(),
            field_in_place<bits, kPlace>(_mm512_maskz_loadu_epi8(valid, chunk)),
            _mm512_loadu_si512(x + cell % kRows * d.x_row_bytes + 64 * kVector));
}

/// A row of w against `kRows` rows of x, an accumulator a cell. The sums over the lanes of
/// totals[r] are the products of row r.
template <int bits, int kRows, int... cells>
inline __attribute__((always_inline)) void dot_row(__m512i (&totals)[kRows], const PackedDot& d,
                                                   const std::uint8_t* w, const std::uint8_t* x,
                                                   Indices<int, cells...>) {
  constexpr int kPlaces = Cut<bits>::kPlaces;
  constexpr int kBytes = Cut<bits>::kBytes;
  constexpr int kChunks = sizeof...(cells) / (kPlaces * kRows);
  constexpr __mmask64 kWhole = kBytes == 64 ? ~__mmask64{0} : (__mmask64{1} << (kBytes % 64)) - 1;
  Accumulators<sizeof...(cells)> sums;
  std::int64_t bytes = (d.k * bits + 7) / 8;
  for (; bytes >= kChunks * kBytes; bytes -= kChunks * kBytes) {
    (add_cell<bits, kRows, cells>(sums, d, w, x, kWhole), ...);
    w += kChunks * kBytes;
    x += kChunks * Cut<bits>::kCodes;
  }
  for (; bytes > 0; bytes -= kBytes) {
    const __mmask64 valid = bytes >= kBytes ? kWhole : first_bytes(bytes);
    ((cells < kRows * kPlaces
          ? add_cell<bits, kRows, cells % (kRows * kPlaces)>(sums, d, w, x, valid)
          : void()),
     ...);
    w += kBytes;
    x += Cut<bits>::kCodes;
  }
  for (__m512i& total : totals) total = _mm512_setzero_si512();
  constexpr int kStep = Cut<bits>::kByPlace ? bits : 0;
  ((totals[cells % kRows] = _mm512_add_epi32(
        totals[cells % kRows],
        _mm512_srai_epi32(sums.template at<cells>(), kStep * (cells / kRows % kPlaces)))),
   ...);
}

/// `kRows` rows of x from row i on, four rows of w one after another.
template <int bits, int kRows>
inline void dot_row_by_row(const PackedDot& d, const FourRows& w, std::int64_t i, std::int64_t j) {
  constexpr QUEST_INDICES(kRows * Cut<bits>::kPlaces * (kChunksOfTurn<bits, kRows>)) kAllCells;
  const std::uint8_t* const x = d.x + i * d.x_row_bytes;
  __m512i totals[4][kRows];
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) dot_row<bits, kRows>(totals[c], d, w.row[c], x, kAllCells);
#pragma GCC unroll 3
  for (int r = 0; r < kRows; ++r) {
    const __m128i four = sums_of_four(totals[0][r], totals[1][r], totals[2][r], totals[3][r]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(d.sums + (i + r) * d.stride + j), four);
  }
}

// Four rows of w side by side share x and the end of their sums, but leave the order of memory;
// what comes later is asked for in that order beside them.

enum class Level : std::uint8_t { kFirst, kSecond };

/// How far ahead of the rows at hand, in bytes.
template <Level level>
constexpr std::int64_t kAskedAhead = level == Level::kFirst ? 4096 : 12288;

template <Level level>
inline __attribute__((always_inline)) void ask_for_lines(const std::uint8_t* at) {
  constexpr auto kHint = level == Level::kFirst ? _MM_HINT_T0 : _MM_HINT_T1;
  for (int c = 0; c < 4; ++c) _mm_prefetch(reinterpret_cast<const char*>(at + 64 * c), kHint);
}

/// Places whose sums stay apart, with fields left where they lie, while registers last; where it
/// is 1, fields are moved to the lowest bits.
template <int bits, int rows>
constexpr int kPlacesApart = 4 * rows* Cut<bits>::kPlaces <= 16 ? Cut<bits>::kPlaces : 1;

/// Accumulator 4 * (rows * place + row of x) + row of w.
template <int bits, int rows>
using SumsOfFour = Accumulators<4 * rows * kPlacesApart<bits, rows>>;

/// A place of the fields of four chunks of w against `rows` rows of x.
template <int bits, int place, int rows, int... pairs>
inline __attribute__((always_inline)) void add_place(SumsOfFour<bits, rows>& sums,
                                                     const __m512i (&chunks)[4],
                                                     const std::uint8_t* x, std::int64_t stride,
                                                     Indices<int, pairs...>) {
  constexpr bool kApart = kPlacesApart < bits, rows >> 1;
  const auto field = [](__m512i chunk) __attribute__((always_inline)) {
    return kApart ? field_in_place<bits, place>(chunk) : field_moved<bits, place>(chunk);
  };
  const __m512i fields[4] = {field(chunks[0]), field(chunks[1]), field(chunks[2]),
                             field(chunks[3])};
  (dot_bytes(sums.template at<(kApart ? 4 * rows * place : 0) + pairs>(), fields[pairs % 4],
             _mm512_loadu_si512(x + pairs / 4 * stride + 64 * place)),
   ...);
}

/// The same of all places of the chunks at byte `at` of their rows.
template <int bits, int rows, int... places>
inline __attribute__((always_inline)) void add_chunks(SumsOfFour<bits, rows>& sums,
                                                      const FourRows& w, std::int64_t at,
                                                      __mmask64 valid, const std::uint8_t* x,
                                                      std::int64_t stride,
                                                      Indices<int, places...>) {
  constexpr QUEST_INDICES(4 * rows) kPairs;
  __m512i chunks[4] = {
      _mm512_maskz_loadu_epi8(valid, w.row[0] + at), _mm512_maskz_loadu_epi8(valid, w.row[1] + at),
      _mm512_maskz_loadu_epi8(valid, w.row[2] + at), _mm512_maskz_loadu_epi8(valid, w.row[3] + at)};
  // Or g++ 12 loads them anew for each place, and loads that wait for memory are few.
  asm("" : "+v"(chunks[0]), "+v"(chunks[1]), "+v"(chunks[2]), "+v"(chunks[3]));
  (add_place<bits, places, rows>(sums, chunks, x, stride, kPairs), ...);
}

/// The sum over places of pair `pair`.
template <int bits, int rows, int pair, int... places>
inline __attribute__((always_inline)) __m512i total_of(SumsOfFour<bits, rows>& sums,
                                                       Indices<int, 0, places...>) {
  __m512i total = sums.template at<pair>();
  ((total = _mm512_add_epi32(
        total, _mm512_srai_epi32(sums.template at<4 * rows * places + pair>(), bits * places))),
   ...);
  return total;
}

/// out[r][0..4) = the sums over the lanes of the accumulators of row r.
template <int bits, int rows, int... each>
inline __attribute__((always_inline)) void put_sums(SumsOfFour<bits, rows>& sums, std::int32_t* out,
                                                    std::int64_t stride, Indices<int, each...>) {
  constexpr QUEST_INDICES((kPlacesApart<bits, rows>)) kPlaces;
  (_mm_storeu_si128(reinterpret_cast<__m128i*>(out + each * stride),
                    sums_of_four(total_of<bits, rows, 4 * each>(sums, kPlaces),
                                 total_of<bits, rows, 4 * each + 1>(sums, kPlaces),
                                 total_of<bits, rows, 4 * each + 2>(sums, kPlaces),
                                 total_of<bits, rows, 4 * each + 3>(sums, kPlaces))),
   ...);
}

/// `rows` rows of x from row i on, four rows of w side by side.
template <int bits, int rows, Level level>
inline void dot_four_columns(const PackedDot& d, const FourRows& w, std::int64_t i,
                             std::int64_t j) {
  constexpr int kBytes = Cut<bits>::kBytes;
  constexpr QUEST_INDICES(Cut<bits>::kPlaces) kPlaces;
  constexpr QUEST_INDICES(rows) kRows;
  SumsOfFour<bits, rows> sums;
  const std::int64_t bytes = (d.k * bits + 7) / 8;
  const std::uint8_t* x = d.x + i * d.x_row_bytes;
  const std::uint8_t* ahead = w.row[0] + kAskedAhead<level>;
  std::int64_t at = 0;
  for (; at + kBytes <= bytes; at += kBytes, x += Cut<bits>::kCodes, ahead += 4 * kBytes) {
    ask_for_lines<level>(ahead);
    add_chunks<bits, rows>(sums, w, at, first_bytes(kBytes), x, d.x_row_bytes, kPlaces);
  }
  if (at < bytes) {
    add_chunks<bits, rows>(sums, w, at, first_bytes(bytes - at), x, d.x_row_bytes, kPlaces);
  }
  put_sums<bits, rows>(sums, d.sums + i * d.stride + j, d.stride, kRows);
}

/// Fewer than four rows of x from row i on, the four rows of w from row j on: side by side where
/// rows of w are whole lines (of others some would be asked for twice) and a line meets vectors of
/// x enough, else one row of w after another.
template <int bits, int rows>
inline void dot_few(const PackedDot& d, const FourRows& w, std::int64_t i, std::int64_t j) {
  if constexpr (bits == 4 || (bits == 8 && rows > 1)) {
    if (d.in_order && d.w_row_bytes % 64 == 0) {
      return dot_four_columns<bits, rows, Level::kFirst>(d, w, i, j);
    }
  }
  dot_row_by_row<bits, rows>(d, w, i, j);
}

template <int bits>
void dot_bits(const PackedDot& d) {
  if constexpr (bits == 2 || bits == 4) {
    if (may_hold(d)) return dot_held<bits>(d);
  }
  if constexpr (bits == 4 || bits == 8) {
    if (may_stack(d)) {
      if (d.rows == 1) return dot_from_stack<bits, 1>(d);
      if constexpr (bits == 8) {
        return d.rows == 2 ? dot_from_stack<8, 2>(d) : dot_from_stack<8, 3>(d);
      }
    }
  }
  for (std::int64_t j = 0; j < d.columns; j += 4) {
    const FourRows w(d, j);
    std::int64_t i = 0;
    for (; i + 4 <= d.rows; i += 4) {
      dot_four_columns<bits, 4, Level::kSecond>(d, w, i, j);
    }
    if (d.rows - i == 3) dot_few<bits, 3>(d, w, i, j);
    if (d.rows - i == 2) dot_few<bits, 2>(d, w, i, j);
    if (d.rows - i == 1) dot_few<bits, 1>(d, w, i, j);
  }
}
using Dot = void (*)(const PackedDot&);
inline Dot dot_of(int bits) { QUEST_FOR_BITS(bits, dot_bits) }

void dot(const PackedDot& d) { dot_of(d.bits)(d); }

}  // namespace
}  // namespace quest
