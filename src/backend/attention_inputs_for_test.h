// Inputs of attention, for tests.
#pragma once

#include "backend/kernel_cases.h"

namespace quest {

/// Normal q, k and v, column slices of one buffer of `key_capacity` rows a sequence; q in one of
/// its own where there are fewer queries.
struct AttentionInputs {
  OwnedTensor qkv, queries, d_out;
  Tensor q, k, v;

  AttentionInputs(const AttentionShape& s, DType dtype)
      : qkv({s.batch * s.key_capacity, (s.heads + 2 * s.kv_heads) * s.head_dim}, dtype),
        queries({s.batch * s.query_length, s.heads * s.head_dim}, dtype),
        d_out({s.batch * s.query_length, s.heads * s.head_dim}, dtype) {
    fill_normal(qkv, 1);
    fill_normal(queries, 2);
    fill_normal(d_out, 3);
    const std::int64_t width = s.heads * s.head_dim, key_width = s.kv_heads * s.head_dim;
    q = s.query_length == s.key_capacity ? qkv.view().columns(0, width) : queries.view();
    k = qkv.view().columns(width, width + key_width);
    v = qkv.view().columns(width + key_width, width + 2 * key_width);
  }
};

}  // namespace quest
