// Reference kernels: causal attention and its gradient, one query at a time.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/float_access.h"
#include "backend/reference/reference_backend.h"

namespace quest {
namespace {

// Rows and columns of one query position of one head.
struct Query {
  std::int64_t row;         // in q and out
  std::int64_t column;      // first column of the head in q and out
  std::int64_t key_row;     // row of key position 0
  std::int64_t key_column;  // first column of the head in k and v
  std::int64_t visible;     // keys that the query sees
  std::int64_t log_sum;     // index into log_sums
};

template <typename Body>
void for_each_query(const AttentionShape& s, Body body) {
  const std::int64_t group = s.heads / s.kv_heads;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t h = 0; h < s.heads; ++h) {
      for (std::int64_t t = 0; t < s.query_length; ++t) {
        body(Query{b * s.query_length + t, h * s.head_dim, b * s.key_capacity,
                   h / group * s.head_dim, s.key_length - s.query_length + t + 1,
                   (b * s.heads + h) * s.query_length + t});
      }
    }
  }
}

double dot(Tensor a, std::int64_t a_row, std::int64_t a_column, Tensor b, std::int64_t b_row,
           std::int64_t b_column, std::int64_t count) {
  double total = 0.0;
  for (std::int64_t d = 0; d < count; ++d) {
    total += load(a, a_row, a_column + d) * load(b, b_row, b_column + d);
  }
  return total;
}

// The positions of a span's sequence, in f32.
std::vector<float> cached_values(const CacheRows& cache, const SequenceSpan& span) {
  const std::int64_t width = cache.values.cols();
  std::vector<float> values;
  for (std::int64_t j = 0; j < span.key_length(); ++j) {
    const std::int64_t row = span.cache_row + j;
    for (std::int64_t c = 0; c < width; ++c) {
      if (!cache.scales) {
        values.push_back(static_cast<float>(load(cache.values, row, c)));
        continue;
      }
      const std::int64_t head = c / (width / cache.scales.cols());
      values.push_back(static_cast<float>(cache.values.row<std::int8_t>(row)[c]) *
                       cache.scales.row<float>(row)[head]);
    }
  }
  return values;
}

// The codes of one head of row `from` of x, and its scale.
void append_codes(const CacheRows& cache, std::int64_t row, std::int64_t head, Tensor x,
                  std::int64_t from) {
  const std::int64_t head_dim = cache.values.cols() / cache.scales.cols();
  const std::int64_t first = head * head_dim;
  double largest = 0.0;
  bool finite = true;
  for (std::int64_t d = 0; d < head_dim; ++d) {
    const double value = load(x, from, first + d);
    finite = finite && std::isfinite(value);
    largest = std::max(largest, std::abs(value));
  }
  std::int8_t* const codes = cache.values.row<std::int8_t>(row) + first;
  float& scale = cache.scales.row<float>(row)[head];
  scale = finite ? static_cast<float>(largest / 127) : std::numeric_limits<float>::quiet_NaN();
  for (std::int64_t d = 0; d < head_dim; ++d) {
    const bool any = finite && largest > 0.0;
    codes[d] = static_cast<std::int8_t>(
        any ? std::nearbyint(load(x, from, first + d) * 127 / largest) : 0.0);
  }
}

}  // namespace

void ReferenceBackend::cache_append(const CacheRows& cache, Tensor x, const SequenceSpans& spans) {
  for (const SequenceSpan& span : spans) {
    for (std::int64_t i = 0; i < span.count; ++i) {
      const std::int64_t row = span.cache_row + span.position + i;
      const std::int64_t from = span.first_row + i;
      if (cache.scales) {
        for (std::int64_t head = 0; head < cache.scales.cols(); ++head) {
          append_codes(cache, row, head, x, from);
        }
      } else {
        cast(cache.values.rows_slice(row, row + 1), x.rows_slice(from, from + 1));
      }
    }
  }
}

void ReferenceBackend::cached_attention(Tensor out, Tensor q, const CacheRows& k,
                                        const CacheRows& v, const SequenceSpans& spans,
                                        const HeadShape& shape) {
  for (const SequenceSpan& span : spans) {
    const std::vector<float> keys = cached_values(k, span), values = cached_values(v, span);
    const Shape rows{span.key_length(), shape.kv_heads * shape.head_dim};
    const std::int64_t end = span.first_row + span.count;
    attention(out.rows_slice(span.first_row, end), Tensor(), q.rows_slice(span.first_row, end),
              view_of(keys.data(), rows), view_of(values.data(), rows),
              {1, span.count, span.key_length(), span.key_length(), shape.heads, shape.kv_heads,
               shape.head_dim});
  }
}

void ReferenceBackend::attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                                 const AttentionShape& shape) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
  for_each_query(shape, [&](const Query& query) {
    std::vector<double> weights(static_cast<std::size_t>(query.visible));
    double largest = -std::numeric_limits<double>::infinity();
    for (std::int64_t j = 0; j < query.visible; ++j) {
      const double score = scale * dot(q, query.row, query.column, k, query.key_row + j,
                                       query.key_column, shape.head_dim);
      weights[static_cast<std::size_t>(j)] = score;
      largest = std::max(largest, score);
    }
    double denominator = 0.0;
    for (double& weight : weights) denominator += weight = std::exp(weight - largest);
    if (log_sums) {
      log_sums.as<float>()[query.log_sum] = static_cast<float>(largest + std::log(denominator));
    }
    for (std::int64_t d = 0; d < shape.head_dim; ++d) {
      double total = 0.0;
      for (std::int64_t j = 0; j < query.visible; ++j) {
        total +=
            weights[static_cast<std::size_t>(j)] * load(v, query.key_row + j, query.key_column + d);
      }
      store(out, query.row, query.column + d, total / denominator);
    }
  });
}

void ReferenceBackend::attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out,
                                          Tensor q, Tensor k, Tensor v, Tensor out, Tensor log_sums,
                                          const AttentionShape& shape) {
  const std::int64_t head_dim = shape.head_dim;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
  // Sums over queries and over the heads of a group, kept in double until the end.
  const std::int64_t key_width = shape.kv_heads * head_dim;
  const auto count = static_cast<std::size_t>(k.rows() * key_width);
  std::vector<double> key_sums(count, 0.0);
  std::vector<double> value_sums(count, 0.0);
  for_each_query(shape, [&](const Query& query) {
    const double correction =
        dot(d_out, query.row, query.column, out, query.row, query.column, head_dim);
    std::vector<double> query_sum(static_cast<std::size_t>(head_dim), 0.0);
    for (std::int64_t j = 0; j < query.visible; ++j) {
      const std::int64_t row = query.key_row + j;
      const double score =
          scale * dot(q, query.row, query.column, k, row, query.key_column, head_dim);
      const double weight = std::exp(score - log_sums.as<float>()[query.log_sum]);
      const double d_weight =
          dot(d_out, query.row, query.column, v, row, query.key_column, head_dim);
      const double d_score = scale * weight * (d_weight - correction);
      for (std::int64_t d = 0; d < head_dim; ++d) {
        const auto key = static_cast<std::size_t>(row * key_width + query.key_column + d);
        query_sum[static_cast<std::size_t>(d)] += d_score * load(k, row, query.key_column + d);
        key_sums[key] += d_score * load(q, query.row, query.column + d);
        value_sums[key] += weight * load(d_out, query.row, query.column + d);
      }
    }
    for (std::int64_t d = 0; d < head_dim; ++d) {
      store(d_q, query.row, query.column + d, query_sum[static_cast<std::size_t>(d)]);
    }
  });
  for (std::int64_t row = 0; row < k.rows(); ++row) {
    for (std::int64_t c = 0; c < key_width; ++c) {
      store(d_k, row, c, key_sums[static_cast<std::size_t>(row * key_width + c)]);
      store(d_v, row, c, value_sums[static_cast<std::size_t>(row * key_width + c)]);
    }
  }
}

}  // namespace quest
