// Integer products of few rows of x that read w once and in the order of memory, one load a line:
// x is held in registers or on the stack (docs/log.md). Packed fields are unpacked in registers.

namespace quest {
namespace {

/// Four rows of w; rows that do not exist repeat the last one.
struct FourRows {
  const std::uint8_t* row[4];
  FourRows(const PackedDot& d, std::int64_t j) {
    const std::int64_t last = d.columns - 1 - j;
    row[0] = d.w + j * d.w_row_bytes;
    for (int c = 1; c < 4; ++c) row[c] = row[c - 1] + (c <= last ? d.w_row_bytes : 0);
  }
};

// --- One short row of x, held in registers ---

constexpr int kHeldVectors = 16;

template <int... each>
inline __attribute__((always_inline)) void hold(Accumulators<sizeof...(each)>& held,
                                                const std::uint8_t* x, std::int64_t bytes,
                                                Indices<int, each...>) {
  ((held.template at<each>() =
        64 * each < bytes ? _mm512_loadu_si512(x + 64 * each) : _mm512_setzero_si512()),
   ...);
}

template <int bits, int chunk, int... places>
inline __attribute__((always_inline)) void add_held_chunk(Accumulators<4>& sums,
                                                          Accumulators<kHeldVectors>& held,
                                                          const std::uint8_t* w,
                                                          Indices<int, places...>) {
  constexpr int kFirst = chunk * sizeof...(places);
  const __m512i line = _mm512_loadu_si512(w + 64 * chunk);
  (dot_bytes(sums.template at<(kFirst + places) % 4>(), field_in_place<bits, places>(line),
             held.template at<kFirst + places>()),
   ...);
}

/// A row of `chunks` chunks of w against x; the sum over the lanes is their product.
template <int bits, int... each>
inline __attribute__((always_inline)) __m512i dot_held_row(Accumulators<kHeldVectors>& held,
                                                           const std::uint8_t* w,
                                                           std::int64_t chunks,
                                                           Indices<int, each...>) {
  constexpr int kPlaces = Cut<bits>::kPlaces;
  constexpr QUEST_INDICES(kPlaces) kEachPlace;
  static_assert(4 % kPlaces == 0);
  Accumulators<4> sums;
  static_cast<void>(
      ((each < chunks && (add_held_chunk<bits, each>(sums, held, w, kEachPlace), true)) && ...));
  const auto moved = [](__m512i sum, int place) __attribute__((always_inline)) {
    return _mm512_srai_epi32(sum, static_cast<unsigned>(bits * (place % kPlaces)));
  };
  return _mm512_add_epi32(
      _mm512_add_epi32(sums.template at<0>(), moved(sums.template at<1>(), 1)),
      _mm512_add_epi32(moved(sums.template at<2>(), 2), moved(sums.template at<3>(), 3)));
}

template <int bits>
void dot_held(const PackedDot& d) {
  constexpr QUEST_INDICES(kHeldVectors) kAll;
  constexpr QUEST_INDICES((kHeldVectors / Cut<bits>::kPlaces)) kChunks;
  Accumulators<kHeldVectors> held;
  hold(held, d.x, d.x_row_bytes, kAll);
  const std::int64_t chunks = d.k * bits / 512;
  for (std::int64_t j = 0; j < d.columns; j += 4) {
    const FourRows w(d, j);
    const __m512i a = dot_held_row<bits>(held, w.row[0], chunks, kChunks);
    const __m512i b = dot_held_row<bits>(held, w.row[1], chunks, kChunks);
    const __m512i c = dot_held_row<bits>(held, w.row[2], chunks, kChunks);
    const __m512i e = dot_held_row<bits>(held, w.row[3], chunks, kChunks);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(d.sums + j), sums_of_four(a, b, c, e));
  }
}

/// Whether dot_held can do it: whole lines of w, 2 or 4 bits, and registers for x.
inline bool may_hold(const PackedDot& d) {
  return d.in_order && d.rows == 1 && d.k * d.bits % 512 == 0 && d.k <= 64 * kHeldVectors;
}

// --- A few rows of x, held on the stack ---

// A Zen 4 follows loads at a fixed distance from the stack pointer less than others, or not at all:
// with x there, what it fetches ahead is w alone, and a row after another reads at the speed of
// reading (docs/log.md).

constexpr int kStackVectors = 128;

struct alignas(64) StackVector {
  std::uint8_t bytes[64];
};

/// As dot_bytes with `x` where it lies: a load of its own would free the address from the stack.
inline __attribute__((always_inline)) void dot_bytes_at(__m512i& sum, __m512i w,
                                                        const StackVector& x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "m"(x));
}

/// Vectors of `rows` rows of x that meet a line of w; lines of a turn, whose loads come first; and
/// sums of a turn, one for each of its vectors: four or more, so that none waits for the one
/// before.
template <int bits, int rows>
constexpr int kVectorsOfLine = Cut<bits>::kPlaces* rows;
template <int bits, int rows>
constexpr int kLinesOfTurn = (kVectorsOfLine<bits, rows> + 3) / kVectorsOfLine<bits, rows>;
template <int bits, int rows>
constexpr int kVectorsOfTurn = kLinesOfTurn<bits, rows>* kVectorsOfLine<bits, rows>;

/// Of the first vectors of x every other is in a register too: a core loads one vector a cycle.
using EveryOther = Accumulators<kHeldVectors>;
constexpr bool is_held(int vector) { return vector % 2 == 0 && vector / 2 < kHeldVectors; }

template <int... each>
inline __attribute__((always_inline)) void hold_every_other(EveryOther& held, const StackVector* x,
                                                            std::int64_t vectors,
                                                            Indices<int, each...>) {
  ((held.template at<each>() =
        2 * each < vectors ? _mm512_load_si512(x + 2 * each) : _mm512_setzero_si512()),
   ...);
  // Or g++ 12 loads them where they are used.
  (([](__m512i& vector) { asm("" : "+v"(vector)); }(held.template at<each>())), ...);
}

/// A turn at `w` against the vectors of x from `x` on; `first` is the number of the first of them,
/// or kStackVectors where it is not a constant: none is held then.
template <int bits, int rows, int first, int... vectors, int... lines>
inline __attribute__((always_inline)) void add_turn(Accumulators<kVectorsOfTurn<bits, rows>>& sums,
                                                    EveryOther& held, const StackVector* x,
                                                    const std::uint8_t* w, Indices<int, vectors...>,
                                                    Indices<int, lines...>) {
  constexpr int kOfLine = kVectorsOfLine<bits, rows>;
  __m512i line[sizeof...(lines)] = {_mm512_loadu_si512(w + 64 * lines)...};
  for (__m512i& loaded : line) asm("" : "+v"(loaded));
  const auto add = [&]<int v>() __attribute__((always_inline)) {
    const __m512i field = field_in_place<bits, v % kOfLine / rows>(line[v / kOfLine]);
    if constexpr (is_held(first + v)) {
      dot_bytes(sums.template at<v>(), field, held.template at<(first + v) / 2>());
    } else {
      dot_bytes_at(sums.template at<v>(), field, x[v]);
    }
  };
  (add.template operator()<vectors>(), ...);
}

/// A row of w of `lines` lines. The sums over the lanes of totals[r] are its products with row r of
/// x.
template <int bits, int rows, int... turns, int... cells>
inline __attribute__((always_inline)) void dot_beside_stack(
    __m512i (&totals)[rows], EveryOther& held, const StackVector (&x)[kStackVectors],
    const std::uint8_t* w, std::int64_t lines, Indices<int, turns...>, Indices<int, cells...>) {
  constexpr int kLines = kLinesOfTurn<bits, rows>;
  constexpr QUEST_INDICES(kLines) kEachLine;
  constexpr Indices<int, cells...> kEachCell;
  constexpr QUEST_INDICES((kVectorsOfLine<bits, rows>)) kOneLine;
  Accumulators<sizeof...(cells)> sums;
  static_cast<void>(((kLines * (turns + 1) <= lines &&
                      (add_turn<bits, rows, static_cast<int>(sizeof...(cells)) * turns>(
                           sums, held, x + sizeof...(cells) * turns, w + 64 * kLines * turns,
                           kEachCell, kEachLine),
                       true)) &&
                     ...));
  for (std::int64_t i = lines / kLines * kLines; i < lines; ++i) {
    add_turn<bits, rows, kStackVectors>(sums, held, x + i * kVectorsOfLine<bits, rows>, w + 64 * i,
                                        kOneLine, Indices<int, 0>());
  }
  for (__m512i& total : totals) total = _mm512_setzero_si512();
  ((totals[cells % rows] = _mm512_add_epi32(
        totals[cells % rows],
        _mm512_srai_epi32(sums.template at<cells>(), bits * (cells / rows % Cut<bits>::kPlaces)))),
   ...);
}

/// All rows of x, which are `rows`, against all rows of w.
template <int bits, int rows>
void dot_from_stack(const PackedDot& d) {
  constexpr QUEST_INDICES((kStackVectors / kVectorsOfTurn<bits, rows>)) kTurns;
  constexpr QUEST_INDICES((kVectorsOfTurn<bits, rows>)) kCells;
  StackVector x[kStackVectors];
  const std::int64_t lines = d.k * bits / 512;
  const std::int64_t vectors = d.k / 64 * rows;
  for (std::int64_t v = 0; v < vectors; ++v) {
    const std::uint8_t* const from = d.x + v % rows * d.x_row_bytes + v / rows * 64;
    _mm512_store_si512(x + v, _mm512_loadu_si512(from));
  }
  EveryOther held;
  hold_every_other(held, x, vectors, QUEST_INDICES(kHeldVectors){});
  for (std::int64_t j = 0; j < d.columns; j += 4) {
    const FourRows w(d, j);
    __m512i totals[4][rows];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      dot_beside_stack<bits, rows>(totals[c], held, x, w.row[c], lines, kTurns, kCells);
    }
#pragma GCC unroll 3
    for (int r = 0; r < rows; ++r) {
      const __m128i four = sums_of_four(totals[0][r], totals[1][r], totals[2][r], totals[3][r]);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(d.sums + r * d.stride + j), four);
    }
  }
}

/// Whether dot_from_stack is the fastest: whole lines of w that meet fewer than four vectors of x
/// each, and room for those.
inline bool may_stack(const PackedDot& d) {
  return d.in_order && d.rows * 8 / d.bits < 4 && d.k * d.bits % 512 == 0 &&
         d.k / 64 * d.rows <= kStackVectors;
}

}  // namespace
}  // namespace quest
