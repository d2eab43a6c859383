// CpuBackend: causal attention and its gradient, in blocks of query rows, where types or CPU have
// no kernels of their own (AttentionKernels).
//
// A block of queries of one head meets all the keys that any of its rows sees: the scores are one
// matrix product into scratch, the softmax works on its rows, and the values are a second product.
// Blocks of later rows see more keys; what lies beyond a block's last row is never computed.
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/rows/float_rows.h"

namespace quest {
namespace {

// Query rows of a block. Measured on one thread at T = 128, 512 and 2048: 64 rows are 5 to 20 %
// slower, 256 gain up to 15 % in bf16 and lose up to 15 % in f32.
constexpr std::int64_t kBlockRows = 128;
// Scores of a block of queries stay within this, so that they live in the second-level cache.
constexpr std::int64_t kBlockScores = 1 << 18;

using Product = std::shared_ptr<const PreparedProduct>;

std::int64_t aligned(std::int64_t count) { return (count + 63) / 64 * 64; }

// Scratch memory of one thread, handed out in order.
class Scratch {
 public:
  explicit Scratch(std::byte* next) : next_(next) {}
  Tensor take(std::int64_t rows, std::int64_t cols, DType dtype) {
    const Tensor tensor(next_, {rows, cols}, dtype);
    next_ += aligned(static_cast<std::int64_t>(tensor.bytes()));
    return tensor;
  }
  std::byte* take_bytes(std::size_t bytes) {
    std::byte* const data = next_;
    next_ += aligned(static_cast<std::int64_t>(bytes));
    return data;
  }
  /// Bytes handed out, when the scratch began at null.
  std::size_t used() const { return reinterpret_cast<std::size_t>(next_); }

 private:
  std::byte* next_;
};

// A block of query rows of each head, and the keys that its last row sees.
struct Block {
  std::int64_t first, rows, keys;
  /// What row `i` of the block sees.
  std::int64_t visible(std::int64_t i) const { return keys - rows + i + 1; }
};

std::vector<Block> blocks_of(const AttentionShape& s) {
  std::int64_t rows = kBlockRows;
  while (rows > 32 && rows * s.key_length > kBlockScores) rows /= 2;
  std::vector<Block> blocks;
  for (std::int64_t first = 0; first < s.query_length; first += rows) {
    const std::int64_t count = std::min(rows, s.query_length - first);
    blocks.push_back({first, count, s.key_length - s.query_length + first + count});
  }
  return blocks;
}

// Rows of scores lie this far apart; not a power of two, which would crowd one cache set.
std::int64_t score_stride(std::int64_t keys) { return (keys + 15) / 16 * 16 + 16; }

// a [m, k] b^T, b [n, k]: strides of rows.
ProductShape times_transposed(DType type, std::int64_t m, std::int64_t n, std::int64_t k,
                              std::int64_t a_row, std::int64_t b_row, std::int64_t out_row) {
  return {.m = m,
          .n = n,
          .k = k,
          .operand_type = type,
          .a_row = a_row,
          .a_column = 1,
          .b_row = 1,
          .b_column = b_row,
          .out_row = out_row};
}
// a [m, k] b [k, n].
ProductShape times(DType type, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t a_row,
                   std::int64_t b_row) {
  return {.m = m,
          .n = n,
          .k = k,
          .operand_type = type,
          .a_row = a_row,
          .a_column = 1,
          .b_row = b_row,
          .b_column = 1,
          .out_row = n};
}
// a^T b, a [k, m], b [k, n].
ProductShape transposed_times(DType type, std::int64_t m, std::int64_t n, std::int64_t k,
                              std::int64_t a_row, std::int64_t b_row, Write write) {
  return {.m = m,
          .n = n,
          .k = k,
          .operand_type = type,
          .a_row = 1,
          .a_column = a_row,
          .b_row = b_row,
          .b_column = 1,
          .out_row = n,
          .write = write};
}

void zero_tail(Floats row, std::int64_t begin, std::int64_t end) {
  const std::int64_t size = row.is_bf16 ? 2 : 4;
  std::memset(static_cast<char*>(row.data) + begin * size, 0,
              static_cast<std::size_t>((end - begin) * size));
}

// A tensor's rows as the products read them: as they are, or widened to f32 in scratch.
class OperandReader {
 public:
  OperandReader(const FloatKernels& kernels, DType type) : kernels_(kernels), type_(type) {}
  /// Row stride of a head's slice once it is read.
  std::int64_t stride(Tensor x, std::int64_t head_dim) const {
    return x.dtype == type_ ? x.row_stride : head_dim;
  }
  /// Scratch for up to `rows` rows of `head_dim`; none where nothing is widened.
  Tensor scratch(Scratch& scratch, Tensor x, std::int64_t rows, std::int64_t head_dim) const {
    return scratch.take(x.dtype == type_ ? 0 : rows, head_dim, type_);
  }
  const void* read(Tensor x, std::int64_t first, std::int64_t rows, std::int64_t column,
                   Tensor wide) const {
    if (x.dtype == type_) return row_of(x, first, column).data;
    for (std::int64_t r = 0; r < rows; ++r) {
      kernels_.cast(row_of(wide, r), row_of(x, first + r, column), wide.cols());
    }
    return wide.data;
  }

 private:
  const FloatKernels& kernels_;
  DType type_;
};

}  // namespace

void CpuBackend::attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                           const AttentionShape& shape) {
  if (shape.query_length < kFewQueries) {
    std::vector<SequenceSpan> spans;
    for (std::int64_t b = 0; b < shape.batch; ++b) {
      spans.push_back({b * shape.query_length, shape.query_length,
                       shape.key_length - shape.query_length, b * shape.key_capacity});
    }
    attention_of_few(out, log_sums, q, {k, {}}, {v, {}}, spans,
                     {shape.heads, shape.kv_heads, shape.head_dim});
    return;
  }
  const AttentionKernels* const own = attention_kernels(isa_);
  if (own != nullptr && q.dtype == DType::kBF16 && out.dtype == DType::kBF16) {
    attention_in_bf16(*own, out, log_sums, q, k, v, shape);
    return;
  }
  const FloatKernels& kernels = float_kernels_;
  const std::int64_t head_dim = shape.head_dim;
  const bool bf16 = q.dtype == DType::kBF16 && products_.bf16_products();
  const DType type = bf16 ? DType::kBF16 : DType::kF32;
  const OperandReader reader(kernels, type);
  const std::vector<Block> blocks = blocks_of(shape);
  const std::int64_t stride = score_stride(shape.key_length);
  std::vector<Product> score_products, value_products;
  std::size_t product_bytes = 0;
  for (const Block& block : blocks) {
    score_products.push_back(products_.prepare(
        times_transposed(type, block.rows, block.keys, head_dim, reader.stride(q, head_dim),
                         reader.stride(k, head_dim), stride)));
    value_products.push_back(products_.prepare(
        times(type, block.rows, head_dim, block.keys, stride, reader.stride(v, head_dim))));
    product_bytes = std::max({product_bytes, score_products.back()->scratch_bytes(),
                              value_products.back()->scratch_bytes()});
  }
  struct Buffers {
    Tensor scores, weights, sums, wide_q, wide_k, wide_v;
    std::byte* product;
  };
  const auto take = [&](Scratch& scratch) {
    const std::int64_t rows = blocks[0].rows;
    return Buffers{scratch.take(rows, stride, DType::kF32),
                   scratch.take(bf16 ? rows : 0, stride, DType::kBF16),
                   scratch.take(rows, head_dim, DType::kF32),
                   reader.scratch(scratch, q, rows, head_dim),
                   reader.scratch(scratch, k, shape.key_length, head_dim),
                   reader.scratch(scratch, v, shape.key_length, head_dim),
                   scratch.take_bytes(product_bytes)};
  };
  Scratch measure(nullptr);
  take(measure);
  const std::size_t bytes = measure.used();
  std::byte* const memory =
      workspace_.bytes(Workspace::Slot::kAttention, bytes * static_cast<std::size_t>(threads_));

  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const std::int64_t heads = shape.batch * shape.heads;
  const auto block_count = static_cast<std::int64_t>(blocks.size());
  share_out(threads_, heads * block_count, [&](std::int64_t item, int thread) {
    Scratch scratch(memory + bytes * static_cast<std::size_t>(thread));
    const Buffers buffer = take(scratch);
    // The longest blocks first, so that no thread starts one when the others are done.
    const auto index = static_cast<std::size_t>(block_count - 1 - item / heads);
    const Block& block = blocks[index];
    const std::int64_t b = item % heads / shape.heads, h = item % shape.heads;
    const std::int64_t first_row = b * shape.query_length + block.first;
    const std::int64_t key_column = h / (shape.heads / shape.kv_heads) * head_dim;
    const std::int64_t key_row = b * shape.key_capacity;
    score_products[index]->run(
        buffer.scores.data, reader.read(q, first_row, block.rows, h * head_dim, buffer.wide_q),
        reader.read(k, key_row, block.keys, key_column, buffer.wide_k), buffer.product);
    const Tensor weights = bf16 ? buffer.weights : buffer.scores;
    std::vector<float> denominators(static_cast<std::size_t>(block.rows));
    for (std::int64_t i = 0; i < block.rows; ++i) {
      float* const row = buffer.scores.row<float>(i);
      const std::int64_t visible = block.visible(i);
      const float largest = scale * kernels.largest(row, visible);
      const float denominator =
          kernels.exponentials(row_of(weights, i), row, scale, largest, visible);
      zero_tail(row_of(weights, i), visible, block.keys);
      denominators[static_cast<std::size_t>(i)] = denominator;
      if (log_sums) {
        log_sums.as<float>()[(b * shape.heads + h) * shape.query_length + block.first + i] =
            largest + std::log(denominator);
      }
    }
    value_products[index]->run(buffer.sums.data, weights.data,
                               reader.read(v, key_row, block.keys, key_column, buffer.wide_v),
                               buffer.product);
    for (std::int64_t i = 0; i < block.rows; ++i) {
      kernels.scale(row_of(out, first_row + i, h * head_dim), buffer.sums.row<float>(i),
                    1.0f / denominators[static_cast<std::size_t>(i)], head_dim);
    }
  });
}

void CpuBackend::attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                                    Tensor k, Tensor v, Tensor out, Tensor log_sums,
                                    const AttentionShape& shape) {
  const AttentionKernels* const own = attention_kernels(isa_);
  const bool all_bf16 =
      q.dtype == DType::kBF16 && d_out.dtype == DType::kBF16 && d_q.dtype == DType::kBF16;
  if (own != nullptr && all_bf16) {
    attention_backward_in_bf16(own->backward, {d_q, d_k, d_v}, d_out, q, k, v, out, log_sums,
                               shape);
    return;
  }
  const FloatKernels& kernels = float_kernels_;
  const std::int64_t head_dim = shape.head_dim;
  const bool bf16 =
      q.dtype == DType::kBF16 && d_out.dtype == DType::kBF16 && products_.bf16_products();
  const DType type = bf16 ? DType::kBF16 : DType::kF32;
  const OperandReader reader(kernels, type);
  const std::vector<Block> blocks = blocks_of(shape);
  const std::int64_t stride = score_stride(shape.key_length);
  // Products of one block; gradients of keys and values add to what later rows left there.
  struct Products {
    Product scores, d_weights, d_queries, set_values, set_keys, add_values, add_keys;
  };
  std::vector<Products> products;
  std::size_t product_bytes = 0;
  for (const Block& block : blocks) {
    const std::int64_t m = block.rows, n = block.keys;
    const std::int64_t q_stride = reader.stride(q, head_dim), k_stride = reader.stride(k, head_dim);
    const std::int64_t v_stride = reader.stride(v, head_dim);
    const std::int64_t out_stride = reader.stride(d_out, head_dim);
    const auto prepare = [&](const ProductShape& product_shape) {
      Product product = products_.prepare(product_shape);
      product_bytes = std::max(product_bytes, product->scratch_bytes());
      return product;
    };
    const auto sum_over_queries = [&](std::int64_t row_stride, Write write) {
      return prepare(transposed_times(type, n, head_dim, m, stride, row_stride, write));
    };
    products.push_back({
        prepare(times_transposed(type, m, n, head_dim, q_stride, k_stride, stride)),
        prepare(times_transposed(type, m, n, head_dim, out_stride, v_stride, stride)),
        prepare(times(type, m, head_dim, n, stride, k_stride)),
        sum_over_queries(out_stride, Write::kSet),
        sum_over_queries(q_stride, Write::kSet),
        sum_over_queries(out_stride, Write::kAdd),
        sum_over_queries(q_stride, Write::kAdd),
    });
  }
  struct Buffers {
    Tensor scores, d_weights, weights, d_scores, d_queries, d_keys, d_values;
    Tensor wide_q, wide_k, wide_v, wide_d_out;
    std::byte* product;
  };
  const auto take = [&](Scratch& scratch) {
    const std::int64_t rows = blocks[0].rows, keys = shape.key_length;
    return Buffers{scratch.take(rows, stride, DType::kF32),
                   scratch.take(rows, stride, DType::kF32),
                   scratch.take(bf16 ? rows : 0, stride, DType::kBF16),
                   scratch.take(bf16 ? rows : 0, stride, DType::kBF16),
                   scratch.take(rows, head_dim, DType::kF32),
                   scratch.take(keys, head_dim, DType::kF32),
                   scratch.take(keys, head_dim, DType::kF32),
                   reader.scratch(scratch, q, rows, head_dim),
                   reader.scratch(scratch, k, keys, head_dim),
                   reader.scratch(scratch, v, keys, head_dim),
                   reader.scratch(scratch, d_out, rows, head_dim),
                   scratch.take_bytes(product_bytes)};
  };
  Scratch measure(nullptr);
  take(measure);
  const std::size_t bytes = measure.used();
  std::byte* const memory =
      workspace_.bytes(Workspace::Slot::kAttention, bytes * static_cast<std::size_t>(threads_));

  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const std::int64_t group = shape.heads / shape.kv_heads;
  share_out(threads_, shape.batch * shape.kv_heads, [&](std::int64_t item, int thread) {
    Scratch scratch(memory + bytes * static_cast<std::size_t>(thread));
    const Buffers buffer = take(scratch);
    const std::int64_t b = item / shape.kv_heads;
    const std::int64_t key_column = item % shape.kv_heads * head_dim;
    const std::int64_t key_row = b * shape.key_capacity;
    const void* const keys = reader.read(k, key_row, shape.key_length, key_column, buffer.wide_k);
    const void* const values = reader.read(v, key_row, shape.key_length, key_column, buffer.wide_v);
    const Tensor weights = bf16 ? buffer.weights : buffer.scores;
    const Tensor d_scores = bf16 ? buffer.d_scores : buffer.d_weights;

    const auto add_block = [&](std::int64_t h, std::size_t index, bool is_first) {
      const Block& block = blocks[index];
      const Products& product = products[index];
      const std::int64_t column = h * head_dim;
      const std::int64_t first_row = b * shape.query_length + block.first;
      const void* const queries = reader.read(q, first_row, block.rows, column, buffer.wide_q);
      const void* const d_outs =
          reader.read(d_out, first_row, block.rows, column, buffer.wide_d_out);
      product.scores->run(buffer.scores.data, queries, keys, buffer.product);
      product.d_weights->run(buffer.d_weights.data, d_outs, values, buffer.product);
      const float* const log_sum =
          log_sums.as<float>() + (b * shape.heads + h) * shape.query_length + block.first;
      for (std::int64_t i = 0; i < block.rows; ++i) {
        const float delta = kernels.dot(row_of(d_out, first_row + i, column),
                                        row_of(out, first_row + i, column), head_dim);
        const std::int64_t visible = block.visible(i);
        kernels.attention_gradient(row_of(weights, i), row_of(d_scores, i),
                                   buffer.scores.row<float>(i), buffer.d_weights.row<float>(i),
                                   scale, log_sum[i], delta, visible);
        zero_tail(row_of(weights, i), visible, block.keys);
        zero_tail(row_of(d_scores, i), visible, block.keys);
      }
      const Product& to_values = is_first ? product.set_values : product.add_values;
      const Product& to_keys = is_first ? product.set_keys : product.add_keys;
      to_values->run(buffer.d_values.data, weights.data, d_outs, buffer.product);
      to_keys->run(buffer.d_keys.data, d_scores.data, queries, buffer.product);
      product.d_queries->run(buffer.d_queries.data, d_scores.data, keys, buffer.product);
      for (std::int64_t i = 0; i < block.rows; ++i) {
        kernels.cast(row_of(d_q, first_row + i, column), row_of(buffer.d_queries, i), head_dim);
      }
    };
    // From the last block, which sees every key and therefore sets the sums, to the first.
    for (std::int64_t g = 0; g < group; ++g) {
      for (std::size_t index = blocks.size(); index-- > 0;) {
        add_block(item % shape.kv_heads * group + g, index, g == 0 && index + 1 == blocks.size());
      }
    }
    for (std::int64_t j = 0; j < shape.key_length; ++j) {
      kernels.cast(row_of(d_k, key_row + j, key_column), row_of(buffer.d_keys, j), head_dim);
      kernels.cast(row_of(d_v, key_row + j, key_column), row_of(buffer.d_values, j), head_dim);
    }
  });
}

}  // namespace quest
