// The gradient of causal attention in vectors of bf16, in blocks of 64 keys and 64 queries.
//
// Four queries and a block of keys are weighed at once. Their weights and the gradients of their
// scores are kept as pairs of queries, which the products for d_v and d_k read, and the latter as
// rows of keys too, for d_q. On the diagonal, what lies above it is left out by fours.
#include "backend/cpu/attention/attention_kernels.h"
#include "backend/cpu/attention/attention_pairs.h"
#include "backend/cpu/simd/fetch_to_write.h"

namespace quest {
namespace {

constexpr std::int64_t kBlock = kColumns;  // keys, and queries
constexpr std::int64_t kBlockPairBytes = kBlock / 2 * kPairRowBytes;
constexpr std::int64_t kScoreRowBytes = 2 * kBlock;
static_assert(kBlockKeys % kBlock == 0);

/// One head's operands and sums, and those of a block.
struct Memory {
  std::int64_t head_dim;
  std::int64_t column_panels;   // of D
  std::int64_t positions;       // rounded up to blocks
  std::uint8_t* query_rows;     // [positions][D]
  std::uint8_t* d_out_rows;     // as query_rows
  std::uint8_t* query_pairs;    // [panels of D][pairs of positions][64 of D]
  std::uint8_t* d_out_pairs;    // as query_pairs
  float* log_sums;              // [positions], to base 2
  float* deltas;                // [positions] d_out . out
  float* d_queries;             // [positions][D]
  float* d_keys;                // as d_queries
  float* d_values;              // as d_queries
  std::uint8_t* key_columns;    // [pairs of D][64 keys], of one block
  std::uint8_t* value_columns;  // as key_columns
  std::uint8_t* key_pairs;      // [panels of D][pairs of keys][64 of D]
  float* scores;                // [4][64 keys]
  float* d_weights;             // as scores
  std::uint8_t* weight_pairs;   // [pairs of queries][64 keys]
  std::uint8_t* d_score_pairs;  // as weight_pairs
  std::uint8_t* d_score_rows;   // [64 queries][64 keys]

  std::int64_t sums_stride() const { return column_panels * kColumns; }
  std::int64_t pair_panel_bytes() const { return positions / 2 * kPairRowBytes; }
};

std::int64_t lay_out(Memory& m, std::uint8_t* data, std::int64_t keys, std::int64_t head_dim) {
  m.head_dim = head_dim;
  m.column_panels = divide_up(head_dim, kColumns);
  m.positions = round_up(keys, kBlock);
  ScratchCutter scratch{data};
  m.scores = scratch.take_floats(kRows * kBlock);
  m.d_weights = scratch.take_floats(kRows * kBlock);
  m.weight_pairs = scratch.take(kBlockPairBytes);
  m.d_score_pairs = scratch.take(kBlockPairBytes);
  m.d_score_rows = scratch.take(kBlock * kScoreRowBytes);
  m.key_columns = scratch.take(round_up(head_dim, kPanel) / 2 * kPairRowBytes);
  m.value_columns = scratch.take(round_up(head_dim, kPanel) / 2 * kPairRowBytes);
  m.key_pairs = scratch.take(m.column_panels * kBlockPairBytes);
  m.query_rows = scratch.take(m.positions * row_bytes(head_dim));
  m.d_out_rows = scratch.take(m.positions * row_bytes(head_dim));
  m.query_pairs = scratch.take(m.column_panels * m.pair_panel_bytes());
  m.d_out_pairs = scratch.take(m.column_panels * m.pair_panel_bytes());
  m.log_sums = scratch.take_floats(m.positions);
  m.deltas = scratch.take_floats(m.positions);
  m.d_queries = scratch.take_floats(m.positions * m.sums_stride());
  m.d_keys = scratch.take_floats(m.positions * m.sums_stride());
  m.d_values = scratch.take_floats(m.positions * m.sums_stride());
  return scratch.next - data;
}

std::int64_t backward_bytes(std::int64_t keys, std::int64_t head_dim) {
  Memory memory;
  return lay_out(memory, nullptr, keys, head_dim);
}

// --- Operands ---

void pack_head(const AttentionBackward& task, std::int64_t head, std::int64_t first,
               const Memory& m) {
  const HeadGroup& in = task.group;
  const std::int64_t column = head * in.head_dim, rows = in.queries - first;
  const HeadRows queries{in.q + first * in.q_stride + column, in.q_stride, rows, in.head_dim};
  const HeadRows d_out{task.d_out + first * task.d_out_stride + column, task.d_out_stride, rows,
                       in.head_dim};
  const std::uint16_t* const out = task.out + first * task.out_stride + column;
  const std::int64_t row_at = first * row_bytes(in.head_dim), pair_at = first / 2 * kPairRowBytes;
  const std::int64_t positions = m.positions - first;
  copy_rows(m.query_rows + row_at, queries, positions);
  copy_rows(m.d_out_rows + row_at, d_out, positions);
  pack_rows_as_pairs(m.query_pairs + pair_at, m.pair_panel_bytes(), queries, positions);
  pack_rows_as_pairs(m.d_out_pairs + pair_at, m.pair_panel_bytes(), d_out, positions);
  for (std::int64_t r = 0; r < positions; ++r) {
    // Of positions that do not exist, d_out and with it all gradients are 0.
    const bool exists = r < rows;
    m.log_sums[first + r] = exists ? kLog2E * task.log_sums[head * in.queries + first + r] : 0.0f;
    m.deltas[first + r] =
        exists ? dot(d_out.data + r * d_out.stride, out + r * task.out_stride, in.head_dim) : 0.0f;
  }
}

void pack_keys(const HeadGroup& in, std::int64_t first, const Memory& m) {
  const HeadRows keys{in.k + first * in.k_stride, in.k_stride, in.keys - first, in.head_dim};
  const HeadRows values{in.v + first * in.v_stride, in.v_stride, in.keys - first, in.head_dim};
  pack_rows_as_columns(m.key_columns, keys);
  pack_rows_as_columns(m.value_columns, values);
  pack_rows_as_pairs(m.key_pairs, kBlockPairBytes, keys, kBlock);
}

/// Asks for row `r` of what a head reads, for the second-level cache.
void fetch_row(const AttentionBackward& task, std::int64_t head, std::int64_t r) {
  const HeadGroup& in = task.group;
  const std::int64_t column = head * in.head_dim;
  fetch_rows(in.q + column, in.q_stride, r, 1, in.head_dim);
  fetch_rows(task.d_out + column, task.d_out_stride, r, 1, in.head_dim);
  fetch_rows(task.out + column, task.out_stride, r, 1, in.head_dim);
  if (head != 0) return;
  fetch_rows(in.k, in.k_stride, r, 1, in.head_dim);
  fetch_rows(in.v, in.v_stride, r, 1, in.head_dim);
}

/// Asks for row `r` of what this head will write and the next one reads. Rows are fetched one by
/// one between products: the CPU has room for few misses at a time.
void fetch_ahead(const AttentionBackward& task, std::int64_t head, std::int64_t r) {
  const HeadGroup& in = task.group;
  if (r >= in.queries) return;
  const bool last = head + 1 == in.heads;
  for (std::int64_t c = 0; c < in.head_dim; c += kPanel) {
    if (task.d_q_sums == nullptr) {
      fetch_to_write(task.d_q + r * task.d_q_stride + head * in.head_dim + c);
    }
    if (!last) continue;
    fetch_to_write(task.d_k + r * task.d_k_stride + c);
    fetch_to_write(task.d_v + r * task.d_v_stride + c);
  }
  if (!last) return fetch_row(task, head + 1, r);
  if (task.next != nullptr) fetch_row(*task.next, 0, r);
}

/// The rows that a block on the diagonal fetches, one with each of its products of 4 rows: they are
/// in four loops.
struct Ahead {
  const AttentionBackward* task;  // null elsewhere
  std::int64_t head, first_row;

  void fetch(std::int64_t loop, std::int64_t row) const {
    if (task != nullptr) fetch_ahead(*task, head, first_row + (loop * kBlock + row) / kRows);
  }
};

// --- Weights and the gradients of scores ---

/// Where a block of keys meets a block of queries.
struct Block {
  std::int64_t first_key, keys;
  std::int64_t first_query, queries;
  std::int64_t first_sums;  // of first_key in d_keys and d_values

  bool on_diagonal() const { return first_key == first_query; }
  /// Keys that some of four queries from `query` on see.
  std::int64_t visible(std::int64_t query) const { return on_diagonal() ? query + kRows : kBlock; }
};

/// Weights of a query and 32 keys, and gradients of scores without the factor of the scores.
struct Weighed {
  __m512i weights, d_scores;
};

/// `row` counts within the four rows of scores, `query` and `key` within their blocks.
template <bool masked>
inline __attribute__((always_inline)) Weighed weigh_row(const Memory& m, const Block& block,
                                                        std::int64_t row, std::int64_t query,
                                                        std::int64_t key, float scale) {
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512 log_sum = _mm512_set1_ps(m.log_sums[block.first_query + query]);
  const __m512 delta = _mm512_set1_ps(m.deltas[block.first_query + query]);
  __m512 weights[2], d_scores[2];
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const std::int64_t at = row * kBlock + key + half * kLanes;
    const __m512 score = _mm512_fmsub_ps(_mm512_load_ps(m.scores + at), factor, log_sum);
    const __m512 change = _mm512_sub_ps(_mm512_load_ps(m.d_weights + at), delta);
    const __m512 weight = power_of_two(score, 1.0f);
    if constexpr (masked) {
      const __mmask16 visible = lanes_of(query + 1 - key - half * kLanes);
      weights[half] = _mm512_maskz_mov_ps(visible, weight);
      d_scores[half] = _mm512_maskz_mul_ps(visible, weight, change);
    } else {
      weights[half] = weight;
      d_scores[half] = _mm512_mul_ps(weight, change);
    }
  }
  return {to_bf16(weights[0], weights[1]), to_bf16(d_scores[0], d_scores[1])};
}

template <bool masked>
void weigh(const Memory& m, const Block& block, std::int64_t query, float scale) {
  const std::int64_t count = block.visible(query);
#pragma GCC unroll 2
  for (std::int64_t r = 0; r < kRows; r += 2) {
    const std::int64_t pairs = (query + r) / 2 * kPairRowBytes;
    std::uint8_t* const rows = m.d_score_rows + (query + r) * kScoreRowBytes;
    for (std::int64_t key = 0; key < count; key += kPanel) {
      const Weighed a = weigh_row<masked>(m, block, r, query + r, key, scale);
      const Weighed b = weigh_row<masked>(m, block, r + 1, query + r + 1, key, scale);
      const std::int64_t at = pairs + key * kPairBytes;
      constexpr std::int64_t kVectorBytes = kLanes * kPairBytes;
      _mm512_store_si512(m.weight_pairs + at, pairs_of_lower(a.weights, b.weights));
      _mm512_store_si512(m.weight_pairs + at + kVectorBytes, pairs_of_upper(a.weights, b.weights));
      _mm512_store_si512(m.d_score_pairs + at, pairs_of_lower(a.d_scores, b.d_scores));
      _mm512_store_si512(m.d_score_pairs + at + kVectorBytes,
                         pairs_of_upper(a.d_scores, b.d_scores));
      _mm512_store_si512(rows + 2 * key, a.d_scores);
      _mm512_store_si512(rows + kScoreRowBytes + 2 * key, b.d_scores);
    }
  }
}

void weigh_block(const Memory& m, const Block& block, float scale, const Ahead& ahead) {
  const std::int64_t pairs = divide_up(m.head_dim, 2), stride = row_bytes(m.head_dim);
  for (std::int64_t query = 0; query < block.queries; query += kRows) {
    const std::int64_t at = (block.first_query + query) * stride;
    ahead.fetch(0, query);
    const std::int64_t vectors = divide_up(block.visible(query), kLanes);
    multiply(m.scores, kBlock, {m.query_rows + at, stride, kPairBytes}, m.key_columns, pairs,
             vectors, false);
    multiply(m.d_weights, kBlock, {m.d_out_rows + at, stride, kPairBytes}, m.value_columns, pairs,
             vectors, false);
    if (block.on_diagonal()) {
      weigh<true>(m, block, query, scale);
    } else {
      weigh<false>(m, block, query, scale);
    }
  }
}

// --- Sums ---

/// d_values and d_keys of a block (= or +=) products over its queries.
void add_key_gradients(const Memory& m, const Block& block, bool first, const Ahead& ahead) {
  const std::int64_t stride = m.sums_stride(), pairs = divide_up(block.queries, 2);
  const auto add = [&](float* sums, const std::uint8_t* rows, const std::uint8_t* columns,
                       std::int64_t loop) {
    for (std::int64_t panel = 0; panel < m.column_panels; ++panel) {
      const std::uint8_t* const from =
          columns + panel * m.pair_panel_bytes() + block.first_query / 2 * kPairRowBytes;
      for (std::int64_t key = 0; key < block.keys; key += kRows) {
        // Queries before a key do not see it.
        const std::int64_t begin = block.on_diagonal() ? key / 2 : 0;
        const std::int64_t skipped = begin * kPairRowBytes;
        if (panel == 0) ahead.fetch(loop, key);
        multiply(sums + (block.first_sums + key) * stride + panel * kColumns, stride,
                 {rows + skipped + key * kPairBytes, kPairBytes, kPairRowBytes}, from + skipped,
                 pairs - begin, vectors_of(m.head_dim, panel), !first);
      }
    }
  };
  add(m.d_values, m.weight_pairs, m.d_out_pairs, 1);
  add(m.d_keys, m.d_score_pairs, m.query_pairs, 2);
}

/// d_queries of a block (= or +=) products over its keys.
void add_query_gradients(const Memory& m, const Block& block, bool first, const Ahead& ahead) {
  const std::int64_t stride = m.sums_stride();
  for (std::int64_t panel = 0; panel < m.column_panels; ++panel) {
    for (std::int64_t query = 0; query < block.queries; query += kRows) {
      const std::int64_t visible = block.visible(query);
      if (panel == 0) ahead.fetch(3, query);
      multiply(m.d_queries + (block.first_query + query) * stride + panel * kColumns, stride,
               {m.d_score_rows + query * kScoreRowBytes, kScoreRowBytes, kPairBytes},
               m.key_pairs + panel * kBlockPairBytes, visible / 2, vectors_of(m.head_dim, panel),
               !first);
    }
  }
}

// --- Results ---

void write_queries(const AttentionBackward& task, std::int64_t head, std::int64_t part,
                   const Memory& m, float scale) {
  const HeadGroup& in = task.group;
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::int64_t r = part * kBlockKeys; r < in.queries; ++r) {
    const float* const sums = m.d_queries + r * m.sums_stride();
    if (task.d_q_sums == nullptr) {
      write_row(task.d_q + r * task.d_q_stride + head * in.head_dim, sums, factor, in.head_dim);
      continue;
    }
    float* const to = task.d_q_sums + ((part * in.heads + head) * in.queries + r) * in.head_dim;
    for (std::int64_t c = 0; c < in.head_dim; c += kLanes) {
      _mm512_mask_storeu_ps(to + c, lanes_of(in.head_dim - c),
                            _mm512_mul_ps(_mm512_load_ps(sums + c), factor));
    }
  }
}

void write_keys(const AttentionBackward& task, const Block& block, const Memory& m, float scale) {
  for (std::int64_t r = 0; r < block.keys; ++r) {
    const std::int64_t from = (block.first_sums + r) * m.sums_stride(), key = block.first_key + r;
    write_row(task.d_k + key * task.d_k_stride, m.d_keys + from, _mm512_set1_ps(scale), m.head_dim);
    write_row(task.d_v + key * task.d_v_stride, m.d_values + from, _mm512_set1_ps(1.0f),
              m.head_dim);
  }
}

/// The gradients that a block of keys gives; `first_of_part`: whether it sets d_queries.
void run_keys(const AttentionBackward& task, std::int64_t head, std::int64_t first_key,
              bool first_of_part, const Memory& m) {
  const HeadGroup& in = task.group;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(in.head_dim));
  const auto in_block = [&](std::int64_t first) {
    return in.keys - first < kBlock ? in.keys - first : kBlock;
  };
  // Sums that no other head adds to stay in the cache from block to block.
  Block block{first_key, in_block(first_key), 0, 0, in.heads > 1 ? first_key : 0};
  pack_keys(in, first_key, m);
  for (std::int64_t query = first_key; query < in.queries; query += kBlock) {
    block.first_query = query;
    block.queries = in_block(query);
    const Ahead ahead{block.on_diagonal() ? &task : nullptr, head, query};
    weigh_block(m, block, kLog2E * scale, ahead);
    add_key_gradients(m, block, head == 0 && query == first_key, ahead);
    add_query_gradients(m, block, first_of_part, ahead);
  }
  if (head + 1 == in.heads) write_keys(task, block, m, scale);
}

void backward(const AttentionBackward& task) {
  const HeadGroup& in = task.group;
  Memory memory;
  lay_out(memory, task.scratch, in.keys, in.head_dim);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(in.head_dim));
  for (std::int64_t head = 0; head < in.heads; ++head) {
    pack_head(task, head, task.first_part * kBlockKeys, memory);
    for (std::int64_t part = task.first_part; part < task.parts; part += task.part_step) {
      const std::int64_t first = part * kBlockKeys;
      for (std::int64_t begin = first; begin < in.keys; begin += task.parts * kBlockKeys) {
        const std::int64_t end = begin + kBlockKeys < in.keys ? begin + kBlockKeys : in.keys;
        for (std::int64_t key = begin; key < end; key += kBlock) {
          run_keys(task, head, key, key == first, memory);
        }
      }
      write_queries(task, head, part, memory, scale);
    }
  }
}

}  // namespace

const AttentionBackwardKernel kAttentionBackwardAvx512Bf16 = {.bytes = backward_bytes,
                                                              .run = backward};

}  // namespace quest
