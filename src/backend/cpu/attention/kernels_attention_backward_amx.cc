// The gradient of causal attention on AMX tiles, in blocks of 256 keys and 256 queries.
//
// Scores and weights are computed transposed, [keys][queries]: then the weights and the gradients
// of the scores are what the products for d_v and d_k read as their first operand, and a second
// form of the latter, which costs two operations, is what the product for d_q^T reads as its
// second. Only the keys and the finished d_q^T must be transposed, once a head. The weights of 32
// keys meet the queries and their gradients at once, while they are near.
#include "backend/cpu/attention/attention_backward_operands.h"

namespace quest {
namespace {

// --- Weights and the gradients of scores ---

/// Panels of keys and of queries, both counted within their blocks.
struct Pair {
  std::int64_t key, query;
};

/// Where a block of keys meets a block of queries.
struct Block {
  std::int64_t first_key, keys;       // panels
  std::int64_t first_query, queries;  // panels, first_query >= first_key
  std::int64_t first_sums;            // of first_key in d_keys and d_values

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
  const std::int64_t at = p.query * kPanelBytes;
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

/// Weights and gradients of the scores of a panel of keys.
void weigh_keys(TileSums& tiles, const Memory& m, const Block& block, std::int64_t key,
                float scale) {
  const auto finish = [&](std::int64_t query, int turn) {
    const Pair p{key, query};
    if (block.on_diagonal(p)) return weigh<true>(m, block, p, turn, scale);
    weigh<false>(m, block, p, turn, scale);
  };
  const std::int64_t begin = block.begin_of_queries(key);
  int turn = 0;
  for (std::int64_t query = begin; query < block.queries; ++query, turn ^= 1) {
    const std::int64_t columns = (block.first_query + query) * m.groups * kPanelBytes;
    multiply(tiles, m.key_rows, m.query_columns + columns, m.scores[turn], m.groups);
    multiply(tiles, m.value_rows, m.d_out_columns + columns, m.d_weights[turn], m.groups);
    if (query > begin) finish(query - 1, turn ^ 1);  // both of whose sums are stored by now
  }
  tiles.finish();
  finish(block.queries - 1, turn ^ 1);
}

// --- Sums ---

/// d_values and d_keys of a panel of keys (= or +=) products over a block of queries.
void add_key_gradients(TileSums& tiles, const Memory& m, const Block& block, std::int64_t key,
                       bool first) {
  const std::int64_t begin = block.begin_of_queries(key);
  const auto add = [&](float* sums, const std::uint8_t* rows, const std::uint8_t* groups) {
    float* out = sums + (block.first_sums + key) * m.groups * kSumsFloats;
    for (std::int64_t i = 0; i < m.groups; ++i, out += kSumsFloats) {
      const std::uint8_t* const group = groups + (i * m.panels + block.first_query) * kPanelBytes;
      tiles.begin(rows + begin * kPanelBytes, group + begin * kPanelBytes, out, !first);
      for (std::int64_t query = begin + 1; query < block.queries; ++query) {
        tiles.add(rows + query * kPanelBytes, group + query * kPanelBytes);
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
      const std::uint8_t* const rows = m.keys_transposed + i * kBlockPanels * kPanelBytes;
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

/// A panel of queries of d_q; `sums` [queries of the head][D] or null.
void write_panel(const AttentionBackward& task, std::int64_t head, std::int64_t panel, float* sums,
                 const Memory& m, float scale) {
  const HeadGroup& in = task.group;
  const std::int64_t first = panel * kPanel, rows = in.queries - first;
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::int64_t i = 0; i < m.groups; ++i) {
    const float* const from = m.d_queries + (panel * m.groups + i) * kSumsFloats;
    const __mmask32 lanes = lanes_below(in.head_dim, i * kPanel);
    if (sums != nullptr) {
      float* const out = sums + first * in.head_dim + i * kPanel;
      transpose_sums(from, [&](std::int64_t r, __m512 low, __m512 high) {
        if (r >= rows) return;
        float* const row = out + r * in.head_dim;
        _mm512_mask_storeu_ps(row, static_cast<__mmask16>(lanes), _mm512_mul_ps(low, factor));
        _mm512_mask_storeu_ps(row + kTileRows, static_cast<__mmask16>(lanes >> kTileRows),
                              _mm512_mul_ps(high, factor));
      });
    } else {
      std::uint16_t* const out =
          task.d_q + first * task.d_q_stride + head * in.head_dim + i * kPanel;
      transpose_sums(from, [&](std::int64_t r, __m512 low, __m512 high) {
        if (r >= rows) return;
        const auto both = reinterpret_cast<__m512i>(
            _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, factor), _mm512_mul_ps(low, factor)));
        _mm512_mask_storeu_epi16(out + r * task.d_q_stride, lanes, both);
      });
    }
  }
}

/// A block of queries, or a part's share of them.
void write_queries(const AttentionBackward& task, std::int64_t head, std::int64_t part,
                   const Block& block, const Memory& m, float scale) {
  const HeadGroup& in = task.group;
  float* const sums = task.d_q_sums == nullptr
                          ? nullptr
                          : task.d_q_sums + (part * in.heads + head) * in.queries * in.head_dim;
  for (std::int64_t panel = block.first_query; panel < block.first_query + block.queries; ++panel) {
    write_panel(task, head, panel, sums, m, scale);
  }
}

void write_keys(const AttentionBackward& task, const Block& block, const Memory& m, float scale) {
  const HeadGroup& in = task.group;
  for (std::int64_t panel = block.first_key; panel < block.first_key + block.keys; ++panel) {
    const std::int64_t first = panel * kPanel, rows = in.keys - first;
    const std::int64_t at = (block.first_sums + panel - block.first_key) * m.groups * kSumsFloats;
    write_rows(task.d_k + first * task.d_k_stride, task.d_k_stride, m.d_keys + at, rows,
               in.head_dim, scale);
    write_rows(task.d_v + first * task.d_v_stride, task.d_v_stride, m.d_values + at, rows,
               in.head_dim, 1.0f);
  }
}

/// The gradients that part `part` of the keys of a packed head gives.
void run_part(const AttentionBackward& task, std::int64_t head, std::int64_t part,
              const Memory& m) {
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(task.group.head_dim));
  const std::int64_t first_panel = part * kBlockPanels, step = task.parts * kBlockPanels;
  const auto in_block = [&](std::int64_t first) {
    return m.panels - first < kBlockPanels ? m.panels - first : kBlockPanels;
  };
  TileSums tiles(m.scores[0]);
  for (std::int64_t key = first_panel; key < m.panels; key += step) {
    // Sums that no other head adds to stay in the cache from block to block.
    Block block{key, in_block(key), 0, 0, task.group.heads > 1 ? key : 0};
    transpose_keys(task.group, key, block.keys, m);
    for (std::int64_t query = key; query < m.panels; query += kBlockPanels) {
      block.first_query = query;
      block.queries = in_block(query);
      for (std::int64_t panel = 0; panel < block.keys; ++panel) {
        copy_keys_and_values(task.group, key + panel, m);
        weigh_keys(tiles, m, block, panel, kLog2E * scale);
        add_key_gradients(tiles, m, block, panel, head == 0 && query == key);
      }
      add_query_gradients(tiles, m, block, key == first_panel);
      tiles.finish();
      const bool last_keys = query < key + step;
      if (last_keys) write_queries(task, head, part, block, m, scale);
    }
    if (head + 1 == task.group.heads) write_keys(task, block, m, scale);
  }
}

void backward(const AttentionBackward& task) {
  Memory memory;
  lay_out(memory, task.scratch, task.group.keys, task.group.head_dim);
  configure_tiles(kStripRows);
  for (std::int64_t head = 0; head < task.group.heads; ++head) {
    pack_head(task, head, task.first_part * kBlockPanels, memory);
    for (std::int64_t part = task.first_part; part < task.parts; part += task.part_step) {
      run_part(task, head, part, memory);
    }
  }
  _tile_release();
}

}  // namespace

const AttentionBackwardKernel kAttentionBackwardAmx = {.bytes = backward_bytes, .run = backward};

}  // namespace quest
