// The gradient of causal attention on AMX tiles, in blocks of 256 keys and 256 queries.
//
// Scores and weights are computed transposed, [keys][queries]: then the weights and the gradients
// of the scores are what the products for d_v and d_k read as their first operand, and a second
// form of the latter, which costs two operations, is what the product for d_q^T reads as its
// second. Only the keys and the finished d_q^T must be transposed, once a head.
#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/attention_tiles.h"

namespace quest {
namespace {

constexpr std::int64_t kBlockPanels = kBlockKeys / kPanel;
constexpr std::int64_t kSumsFloats = kPanel * kPanel;

/// One head's operands and sums. Counts: panels of positions, groups of D, and a block's panels.
struct Memory {
  std::int64_t groups;
  std::int64_t panels;
  std::uint8_t* key_rows;          // [panels][groups][32][32]
  std::uint8_t* value_rows;        // as key_rows
  std::uint8_t* keys_transposed;   // [groups][panels][32 of D][32 keys]
  std::uint8_t* query_columns;     // [panels][groups][2 tiles]
  std::uint8_t* d_out_columns;     // as query_columns
  std::uint8_t* query_groups;      // [groups][panels][2 tiles]
  std::uint8_t* d_out_groups;      // as query_groups
  float* log_sums;                 // [panels][32], to base 2
  float* deltas;                   // [panels][32] d_out . out
  float* d_queries;                // [panels][groups][32 of D][32 queries]
  float* d_keys;                   // [panels][groups][32][32]
  float* d_values;                 // as d_keys
  std::uint8_t* weights;           // [block of keys][block of queries][32][32]
  std::uint8_t* d_scores;          // as weights
  std::uint8_t* d_scores_columns;  // [block of queries][block of keys][2 tiles]
  float* scores[2];                // [32][32], of two pairs of panels in turn
  float* d_weights[2];
};

std::int64_t lay_out(Memory& m, std::uint8_t* data, std::int64_t keys, std::int64_t head_dim) {
  m.groups = panels_of(head_dim);
  m.panels = panels_of(keys);
  std::uint8_t* next = data;
  const auto take = [&](std::int64_t bytes) {
    std::uint8_t* const taken = next;
    next += bytes;
    return taken;
  };
  const auto take_floats = [&](std::int64_t count) {
    return reinterpret_cast<float*>(take(4 * count));
  };
  for (int turn = 0; turn < 2; ++turn) {
    m.scores[turn] = take_floats(kSumsFloats);
    m.d_weights[turn] = take_floats(kSumsFloats);
  }
  const std::int64_t block = kBlockPanels * kBlockPanels * kPanelBytes;
  m.weights = take(block);
  m.d_scores = take(block);
  m.d_scores_columns = take(block);
  const std::int64_t count = m.panels * m.groups;
  std::uint8_t** const operands[] = {&m.key_rows,      &m.value_rows,    &m.keys_transposed,
                                     &m.query_columns, &m.d_out_columns, &m.query_groups,
                                     &m.d_out_groups};
  for (std::uint8_t** const operand : operands) *operand = take(count * kPanelBytes);
  float** const sums[] = {&m.d_queries, &m.d_keys, &m.d_values};
  for (float** const sum : sums) *sum = take_floats(count * kSumsFloats);
  m.log_sums = take_floats(m.panels * kPanel);
  m.deltas = take_floats(m.panels * kPanel);
  return next - data;
}

std::int64_t backward_bytes(std::int64_t keys, std::int64_t head_dim) {
  Memory memory;
  return lay_out(memory, nullptr, keys, head_dim);
}

// --- Operands ---

void pack_keys_and_values(const HeadGroup& in, const Memory& m) {
  for (std::int64_t panel = 0; panel < m.panels; ++panel) {
    const std::int64_t first = panel * kPanel, rows = in.keys - first;
    const std::uint16_t* const k = in.k + first * in.k_stride;
    const std::int64_t at = panel * m.groups * kPanelBytes;
    copy_rows(m.key_rows + at, k, in.k_stride, rows, in.head_dim);
    copy_rows(m.value_rows + at, in.v + first * in.v_stride, in.v_stride, rows, in.head_dim);
  }
  const TileSource transposed = source_of(in.k, in.k_stride, in.head_dim, in.keys);
  for (std::int64_t g = 0; g < m.groups; ++g) {
    kTileKernelsAmx.pack_columns_bf16(m.keys_transposed + g * m.panels * kPanelBytes, transposed,
                                      g * kPanel, 0, m.panels);
  }
}

/// d_out . out of a row.
float dot(const std::uint16_t* a, const std::uint16_t* b, std::int64_t count) {
  __m512 sum = _mm512_setzero_ps();
  for (std::int64_t c = 0; c < count; c += kPanel) {
    const __mmask32 lanes = lanes_below(count, c);
    sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(lanes, a + c),
                           (__m512bh)_mm512_maskz_loadu_epi16(lanes, b + c));
  }
  return _mm512_reduce_add_ps(sum);
}

void pack_head(const AttentionBackward& task, std::int64_t head, std::int64_t first_panel,
               const Memory& m) {
  const HeadGroup& in = task.group;
  const std::int64_t column = head * in.head_dim;
  for (std::int64_t panel = first_panel; panel < m.panels; ++panel) {
    const std::int64_t first = panel * kPanel, rows = in.queries - first;
    const std::uint16_t* const q = in.q + first * in.q_stride + column;
    const std::uint16_t* const d_out = task.d_out + first * task.d_out_stride + column;
    const std::uint16_t* const out = task.out + first * task.out_stride + column;
    const std::int64_t at = panel * m.groups * kPanelBytes, group_at = panel * kPanelBytes;
    const std::int64_t group_bytes = m.panels * kPanelBytes;
    pack_rows_as_columns(m.query_columns + at, q, in.q_stride, rows, in.head_dim);
    pack_rows_as_group(m.query_groups + group_at, group_bytes, q, in.q_stride, rows, in.head_dim);
    pack_rows_as_columns(m.d_out_columns + at, d_out, task.d_out_stride, rows, in.head_dim);
    pack_rows_as_group(m.d_out_groups + group_at, group_bytes, d_out, task.d_out_stride, rows,
                       in.head_dim);
    for (std::int64_t r = 0; r < kPanel; ++r) {
      // Of positions that do not exist, d_out and with it all gradients are 0.
      const bool exists = r < rows;
      m.log_sums[first + r] = exists ? kLog2E * task.log_sums[head * in.queries + first + r] : 0.0f;
      m.deltas[first + r] =
          exists ? dot(d_out + r * task.d_out_stride, out + r * task.out_stride, in.head_dim)
                 : 0.0f;
    }
  }
}

// --- Weights and the gradients of scores ---

/// Panels of keys and of queries, both counted within their blocks.
struct Pair {
  std::int64_t key, query;
};

/// Where a block of keys meets a block of queries.
struct Block {
  std::int64_t first_key, keys;       // panels
  std::int64_t first_query, queries;  // panels, first_query >= first_key

  /// Panels of queries before this see nothing of a panel of keys.
  std::int64_t begin_of_queries(std::int64_t key) const {
    const std::int64_t begin = first_key + key - first_query;
    return begin > 0 ? begin : 0;
  }
  /// Panels of keys from here on are hidden from a panel of queries.
  std::int64_t end_of_keys(std::int64_t query) const {
    const std::int64_t end = first_query + query + 1 - first_key;
    return end < keys ? end : keys;
  }
  bool on_diagonal(Pair p) const { return first_key + p.key == first_query + p.query; }
};

/// Two vectors of queries of one key: weights, and gradients of scores without the factor of the
/// scores, as the upper halves of floats.
struct KeyRow {
  __m512i weights[2], d_scores[2];
};

template <bool masked>
inline KeyRow key_row(const float* scores, const float* d_weights, std::int64_t key, __m512 scale,
                      const __m512 (&log_sums)[2], const __m512 (&deltas)[2]) {
  KeyRow row;
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const std::int64_t at = key * kSumsStride + half * kTileRows;
    const __m512 score = _mm512_fmsub_ps(_mm512_load_ps(scores + at), scale, log_sums[half]);
    __m512 weight = power_of_two(score, 1.0f);
    if constexpr (masked) {
      const __mmask16 hidden = lanes_of(key - half * kTileRows);  // queries before the key
      weight = _mm512_maskz_mov_ps(_knot_mask16(hidden), weight);
    }
    const __m512 change = _mm512_sub_ps(_mm512_load_ps(d_weights + at), deltas[half]);
    row.weights[half] = half_up(weight);
    row.d_scores[half] = half_up(_mm512_mul_ps(weight, change));
  }
  return row;
}

template <bool masked>
void weigh(const Memory& m, const Block& block, Pair p, int turn, float scale) {
  const float* const scores = m.scores[turn];
  const float* const d_weights = m.d_weights[turn];
  const std::int64_t query = (block.first_query + p.query) * kPanel;
  const __m512 log_sums[2] = {_mm512_load_ps(m.log_sums + query),
                              _mm512_load_ps(m.log_sums + query + kTileRows)};
  const __m512 deltas[2] = {_mm512_load_ps(m.deltas + query),
                            _mm512_load_ps(m.deltas + query + kTileRows)};
  const std::int64_t at = (p.key * kBlockPanels + p.query) * kPanelBytes;
  std::uint8_t* const to_weights = m.weights + at;
  std::uint8_t* const to_rows = m.d_scores + at;
  std::uint8_t* const to_columns =
      m.d_scores_columns + (p.query * kBlockPanels + p.key) * kPanelBytes;
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::int64_t key = 0; key < kPanel; key += 2) {
    const KeyRow a = key_row<masked>(scores, d_weights, key, factor, log_sums, deltas);
    const KeyRow b = key_row<masked>(scores, d_weights, key + 1, factor, log_sums, deltas);
    const std::int64_t row = key * kTileBytes;
    _mm512_store_si512(to_weights + row, interleave_upper(a.weights[0], a.weights[1]));
    _mm512_store_si512(to_weights + row + kTileBytes, interleave_upper(b.weights[0], b.weights[1]));
    _mm512_store_si512(to_rows + row, interleave_upper(a.d_scores[0], a.d_scores[1]));
    _mm512_store_si512(to_rows + row + kTileBytes, interleave_upper(b.d_scores[0], b.d_scores[1]));
    _mm512_store_si512(to_columns + row / 2, interleave_upper(a.d_scores[0], b.d_scores[0]));
    _mm512_store_si512(to_columns + kTileSize + row / 2,
                       interleave_upper(a.d_scores[1], b.d_scores[1]));
  }
}

/// rows x columns over all of D.
void multiply(TileSums& tiles, const std::uint8_t* rows, const std::uint8_t* columns, float* out,
              std::int64_t groups) {
  tiles.begin(rows, columns, out, false);
  for (std::int64_t g = 1; g < groups; ++g) {
    tiles.add(rows + g * kPanelBytes, columns + g * kPanelBytes);
  }
}

void weigh_block(TileSums& tiles, const Memory& m, const Block& block, float scale) {
  const auto finish = [&](Pair p, int turn) {
    if (block.on_diagonal(p)) return weigh<true>(m, block, p, turn, scale);
    weigh<false>(m, block, p, turn, scale);
  };
  Pair before{};
  int turn = 0;
  bool any = false;
  for (std::int64_t key = 0; key < block.keys; ++key) {
    const std::int64_t rows = (block.first_key + key) * m.groups * kPanelBytes;
    for (std::int64_t query = block.begin_of_queries(key); query < block.queries; ++query) {
      const std::int64_t columns = (block.first_query + query) * m.groups * kPanelBytes;
      multiply(tiles, m.key_rows + rows, m.query_columns + columns, m.scores[turn], m.groups);
      multiply(tiles, m.value_rows + rows, m.d_out_columns + columns, m.d_weights[turn], m.groups);
      if (any) finish(before, turn ^ 1);  // both of whose sums are stored by now
      before = {key, query};
      any = true;
      turn ^= 1;
    }
  }
  tiles.finish();
  finish(before, turn ^ 1);
}

// --- Sums ---

/// d_values and d_keys of a block of keys += products over a block of queries.
void add_key_gradients(TileSums& tiles, const Memory& m, const Block& block, bool first) {
  const auto add = [&](float* sums, const std::uint8_t* rows, const std::uint8_t* groups) {
    for (std::int64_t key = 0; key < block.keys; ++key) {
      const std::int64_t begin = block.begin_of_queries(key);
      const std::uint8_t* const row = rows + key * kBlockPanels * kPanelBytes;
      for (std::int64_t i = 0; i < m.groups; ++i) {
        const std::uint8_t* const group = groups + (i * m.panels + block.first_query) * kPanelBytes;
        float* const out = sums + ((block.first_key + key) * m.groups + i) * kSumsFloats;
        tiles.begin(row + begin * kPanelBytes, group + begin * kPanelBytes, out, !first);
        for (std::int64_t query = begin + 1; query < block.queries; ++query) {
          tiles.add(row + query * kPanelBytes, group + query * kPanelBytes);
        }
      }
    }
  };
  add(m.d_values, m.weights, m.d_out_groups);
  add(m.d_keys, m.d_scores, m.query_groups);
}

/// d_queries of a block of queries (= or +=) products over a block of keys.
void add_query_gradients(TileSums& tiles, const Memory& m, const Block& block, bool first) {
  for (std::int64_t query = 0; query < block.queries; ++query) {
    const std::uint8_t* const columns = m.d_scores_columns + query * kBlockPanels * kPanelBytes;
    const std::int64_t end = block.end_of_keys(query);
    for (std::int64_t i = 0; i < m.groups; ++i) {
      const std::uint8_t* const rows =
          m.keys_transposed + (i * m.panels + block.first_key) * kPanelBytes;
      float* const out = m.d_queries + ((block.first_query + query) * m.groups + i) * kSumsFloats;
      tiles.begin(rows, columns, out, !first);
      for (std::int64_t key = 1; key < end; ++key) {
        tiles.add(rows + key * kPanelBytes, columns + key * kPanelBytes);
      }
    }
  }
}

// --- Results ---

/// Rows of a gradient of keys or values from its sums.
void write_rows(std::uint16_t* out, std::int64_t stride, const float* sums, std::int64_t rows,
                std::int64_t head_dim, float scale) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::int64_t c = 0; c < head_dim; c += kPanel, sums += kSumsFloats) {
    const __mmask32 lanes = lanes_below(head_dim, c);
    for (std::int64_t r = 0; r < rows && r < kPanel; ++r) {
      _mm512_mask_storeu_epi16(out + r * stride + c, lanes,
                               columns_in_order(sums + r * kSumsStride, factor));
    }
  }
}

/// Calls write(row, low, high) with each query's 32 values of D from sums [32 of D][32 queries].
template <typename Write>
void transpose_sums(const float* sums, Write write) {
  for (std::int64_t first = 0; first < kPanel; first += kTileRows) {
    __m512i low[16], high[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      low[i] = _mm512_load_si512(sums + i * kSumsStride + first);
      high[i] = _mm512_load_si512(sums + (i + kTileRows) * kSumsStride + first);
    }
    transpose16(low);
    transpose16(high);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      write(first + i, _mm512_castsi512_ps(low[i]), _mm512_castsi512_ps(high[i]));
    }
  }
}

/// A panel of queries of d_q.
void write_queries(const AttentionBackward& task, std::int64_t head, std::int64_t panel,
                   const Memory& m, float scale) {
  const HeadGroup& in = task.group;
  const std::int64_t first = panel * kPanel, rows = in.queries - first;
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::int64_t i = 0; i < m.groups; ++i) {
    const float* const sums = m.d_queries + (panel * m.groups + i) * kSumsFloats;
    const __mmask32 lanes = lanes_below(in.head_dim, i * kPanel);
    if (task.d_q_sums != nullptr) {
      float* const out = task.d_q_sums + (head * in.queries + first) * in.head_dim + i * kPanel;
      transpose_sums(sums, [&](std::int64_t r, __m512 low, __m512 high) {
        if (r >= rows) return;
        float* const row = out + r * in.head_dim;
        _mm512_mask_storeu_ps(row, static_cast<__mmask16>(lanes), _mm512_mul_ps(low, factor));
        _mm512_mask_storeu_ps(row + kTileRows, static_cast<__mmask16>(lanes >> kTileRows),
                              _mm512_mul_ps(high, factor));
      });
    } else {
      std::uint16_t* const out =
          task.d_q + first * task.d_q_stride + head * in.head_dim + i * kPanel;
      transpose_sums(sums, [&](std::int64_t r, __m512 low, __m512 high) {
        if (r >= rows) return;
        const auto both = reinterpret_cast<__m512i>(
            _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, factor), _mm512_mul_ps(low, factor)));
        _mm512_mask_storeu_epi16(out + r * task.d_q_stride, lanes, both);
      });
    }
  }
}

void write_keys(const AttentionBackward& task, const Block& block, const Memory& m, float scale) {
  const HeadGroup& in = task.group;
  for (std::int64_t panel = block.first_key; panel < block.first_key + block.keys; ++panel) {
    const std::int64_t first = panel * kPanel, rows = in.keys - first;
    const std::int64_t at = panel * m.groups * kSumsFloats;
    write_rows(task.d_k + first * task.d_k_stride, task.d_k_stride, m.d_keys + at, rows,
               in.head_dim, scale);
    write_rows(task.d_v + first * task.d_v_stride, task.d_v_stride, m.d_values + at, rows,
               in.head_dim, 1.0f);
  }
}

void run_head(const AttentionBackward& task, std::int64_t head, const Memory& m) {
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(task.group.head_dim));
  const std::int64_t first_panel = task.first_block * kBlockPanels;
  const std::int64_t step = task.block_step * kBlockPanels;
  const auto in_block = [&](std::int64_t first) {
    return m.panels - first < kBlockPanels ? m.panels - first : kBlockPanels;
  };
  pack_head(task, head, first_panel, m);
  TileSums tiles(m.scores[0]);
  for (std::int64_t key = first_panel; key < m.panels; key += step) {
    Block block{key, in_block(key), 0, 0};
    for (std::int64_t query = key; query < m.panels; query += kBlockPanels) {
      block.first_query = query;
      block.queries = in_block(query);
      weigh_block(tiles, m, block, kLog2E * scale);
      add_key_gradients(tiles, m, block, head == 0 && query == key);
      add_query_gradients(tiles, m, block, key == first_panel);
      tiles.finish();
    }
    if (head + 1 == task.group.heads) write_keys(task, block, m, scale);
  }
  for (std::int64_t panel = first_panel; panel < m.panels; ++panel) {
    write_queries(task, head, panel, m, scale);
  }
}

void backward(const AttentionBackward& task) {
  Memory memory;
  lay_out(memory, task.scratch, task.group.keys, task.group.head_dim);
  pack_keys_and_values(task.group, memory);
  configure_tiles(kStripRows);
  for (std::int64_t head = 0; head < task.group.heads; ++head) run_head(task, head, memory);
  _tile_release();
}

}  // namespace

const AttentionBackwardKernel kAttentionBackwardAmx = {.bytes = backward_bytes, .run = backward};

}  // namespace quest
