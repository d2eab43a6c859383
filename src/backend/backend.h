// Backend: one device, its memory, and the catalogue of kernels, which is also their specification.
//
// Legend: B sequences, T positions, R = B*T rows (tokens), C width, F hidden width, H and Hkv
// heads, D head size, V vocabulary; products have M rows, N outputs and K summed values. "float"
// tensors are f32 or bf16; all arithmetic inside a kernel is f32 or better, and a bf16 output is
// rounded once, to nearest even. Outputs stand first. `=` sets an output, `+=` adds to it,
// "= or +=" does what `write` says. Tensors are contiguous unless "may be a column slice" is said,
// and do not overlap unless "may alias" is said.
// ReferenceBackend is the executable form of this file: plain loops with sums in double.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>

#include "backend/adamw_factors.h"
#include "backend/cache_rows.h"
#include "backend/recording.h"
#include "backend/stopwatch.h"
#include "core/tensor.h"
#include "quant/gradient_rounding.h"
#include "quant/row_quantizer.h"

namespace quest {

/// Whether a product replaces its output or adds to it.
enum class Write : std::uint8_t { kSet, kAdd };

/// Rotated and quantized rows: what an integer product reads and what backward needs.
struct QuantizedRows {
  Tensor codes;      ///< i8 [R, K]: q in -2^(b-1) .. 2^(b-1)-1; the value is (q + 1/2) step
  Tensor steps;      ///< f32 [R]
  Tensor code_sums;  ///< i32 [R]: sum of the codes of a row
  Tensor mask;       ///< u8 [R, ceil(K/8)]: bit k%8 of byte k/8 is 1 where the gradient passes;
                     ///< null when the quantizer has no mask or no backward follows
  int bits = 8;      ///< of a code, at most: products of fewer bits may be faster
};

/// Rows of codes as they lie in a packed file (see quant/packing.h): what a packed product reads.
struct PackedRows {
  Tensor codes;              ///< u8 [N, ceil(K * bits / 8)]
  Tensor steps;              ///< f32 [N]
  Tensor code_sums;          ///< i32 [N]: sum of the codes of a row
  int bits = 0;              ///< 1..8
  std::int64_t columns = 0;  ///< K
  bool approximate = false;  ///< rounded to be stored, not trained so: inputs may be rounded too
  Tensor next_codes = {};    ///< u8: codes that a decoded token meets after these, so that a device
                             ///< may fetch them meanwhile; null where nobody knows
};

/// Rows that are to be quantized. They lie in x, float [R, K], or are made on the way, as rmsnorm
/// or swiglu would set x: then x is scratch, whose type is that of what is quantized.
struct RowSource {
  struct Norm {
    Tensor rstd, x, weight;
    float epsilon;
  };
  struct Swiglu {
    Tensor gate, up;
  };
  Tensor x;
  std::variant<std::monostate, Norm, Swiglu> made_of = {};
};

/// Sizes of an attention call. Queries are the last `query_length` of `key_length` positions.
struct AttentionShape {
  std::int64_t batch;         ///< B
  std::int64_t query_length;  ///< positions of q and of the output
  std::int64_t key_length;    ///< positions of k and v that are in use
  std::int64_t key_capacity;  ///< rows from one sequence's keys to the next one's
  std::int64_t heads;         ///< H
  std::int64_t kv_heads;      ///< Hkv, divides H; head h reads key head h / (H / Hkv)
  std::int64_t head_dim;      ///< D
};

/// Which values a rotary embedding pairs: (2i, 2i+1) or (i, i + D/2).
enum class RopeLayout : std::uint8_t { kInterleaved, kHalf };

/// What `rope` does to the first values of a product's rows, in sequences that begin at position 0.
struct Rotary {
  Tensor cos;  ///< f32 [positions, D/2]
  Tensor sin;
  RopeLayout layout;
  std::int64_t length;   ///< rows of a sequence
  std::int64_t columns;  ///< values of a row that are turned: whole heads
};

/// Values of a moment that share a scale where it has 8 bits.
inline constexpr std::int64_t kMomentBlock = 256;

/// One of AdamW's two moments, in 32, 16 or 8 bits. With 8 bits a block of kMomentBlock values has
/// the scale s of its largest magnitude, and roots of the values are stored, so that codes lie
/// closer together where values are small: the first moment is s sign(q) (q / 127)^2 with q in i8,
/// the second s (q / 255)^4 with q in u8, at least 1 where the value is not 0 (a denominator that
/// vanished would make the update large).
struct Moment {
  Tensor values;  ///< f32, bf16, or codes, as many as the parameter has
  Tensor scales;  ///< f32 [ceil(n / kMomentBlock)] beside codes, else null
};

/// One AdamW update (Loshchilov and Hutter 2019, with decoupled decay as PyTorch computes it).
struct AdamWStep {
  float learning_rate;
  float beta1;
  float beta2;
  float epsilon;
  float weight_decay;
  std::int64_t step;  ///< 1 for the first update
  /// f32 [kAdamWFactors]: `adamw_factors` of this where kernels of a device read them; null for
  /// those of the host.
  Tensor on_device = {};
};
AdamWFactors adamw_factors(const AdamWStep& step);

/// What a call is given besides tensors and differs from one run of a recording to the next (spans,
/// rounding keys, the factors of AdamW) is given twice: as it is, for kernels of the host, and as a
/// tensor `on_device`, for those of a device.
class Backend {
 public:
  virtual ~Backend() = default;

  // --- The device ---

  /// "reference", "cpu avx512", ...
  virtual std::string name() const = 0;
  virtual Place place() const = 0;
  virtual int threads() const = 0;
  /// Memory of this device, aligned to 64 bytes, zeroed. Throws Error that states the size.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void deallocate(void* data, std::size_t bytes) noexcept = 0;
  /// Waits for everything that was asked for.
  virtual void synchronize() = 0;
  /// The backend outlives it. One that works while its caller goes on has marks that do not wait.
  virtual std::unique_ptr<Stopwatch> make_stopwatch();
  /// The backend outlives it. One that is told its kernels ahead of time has recordings that call
  /// their bodies a first time or two; others call them in every run.
  virtual std::unique_ptr<Recording> make_recording();

  // --- Moving and filling ---

  /// dst = src: same type and shape, either may be a column slice, either may lie on the host. When
  /// it returns, what lies there has been read or is there.
  virtual void copy(Tensor dst, Tensor src) = 0;
  /// dst = 0.
  virtual void zero(Tensor dst) = 0;
  /// dst = src, float to float of any two types; either may be a column slice.
  virtual void cast(Tensor dst, Tensor src) = 0;

  // --- Quantization ---

  /// rows = quantization of x, float [R, K], may be a column slice. Fills codes, steps, code_sums,
  /// and mask where it is not null. See RowQuantizer for the definition.
  virtual void quantize_rows(const QuantizedRows& rows, Tensor x,
                             const RowQuantizer& quantizer) = 0;
  /// quantize_rows, rmsnorm_quantize or swiglu_quantize, by the source.
  void quantize_source(const QuantizedRows& rows, const RowSource& source,
                       const RowQuantizer& quantizer);
  /// d_x (= or +=) (mask * d_z) H, float [R, K]; d_z float [R, K], may alias d_x. A null mask
  /// passes everything. Block 1 rotates nothing.
  virtual void quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask, std::int64_t block,
                                      Write write) = 0;
  /// out = Z H where Z are the quantized values: back in the domain of x. Float [R, K].
  virtual void dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) = 0;
  /// sums f64 [3] += {number of masked-out values, sum (Q(z) - z)^2, sum z^2} over x and its
  /// `rows`. For the run log, not for every step.
  virtual void quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                                  const RowQuantizer& quantizer) = 0;

  // --- Products ---

  /// y [M, N] (= or +=) x [M, K] w [N, K]^T. x and w of one float type; y float, may be a column
  /// slice.
  virtual void matmul(Tensor y, Tensor x, Tensor w, Write write) = 0;
  /// y as matmul(y, x, w, Write::kSet) and then `rope` of its first columns set it, bit for bit.
  virtual void matmul_rope(Tensor y, Tensor x, Tensor w, const Rotary& rotary);
  /// d_x [M, K] (= or +=) d_y [M, N] w [N, K]. d_y and w of one float type, d_y may be a column
  /// slice; d_x float.
  virtual void matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) = 0;
  /// d_w [N, K] (= or +=) d_y [M, N]^T x [M, K]. d_y and x of one float type, d_y may be a column
  /// slice; d_w f32.
  virtual void matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) = 0;

  /// As `matmul`, on quantized operands with sums of integers:
  /// y[i,j] (= or +=) step_i step_j / 4 * sum_k (2 qx_ik + 1)(2 qw_jk + 1). The integer is exact;
  /// K <= 32768.
  virtual void quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                                Write write) = 0;
  /// The same for `quantized_matmul` as matmul_rope for `matmul`.
  virtual void quantized_matmul_rope(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                                     const Rotary& rotary);
  /// d_z [M, K] (= or +=) d_y [M, N] Zw, where Zw are w's quantized values. d_z float; d_y float,
  /// may be a column slice. With bf16 d_y the implementation may round one factor of each product
  /// to bf16: the value of w, or d_y times w's step.
  virtual void quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                           Write write) = 0;
  /// d_z [N, K] (= or +=) d_y [M, N]^T Zx, where Zx are x's quantized values: the weight gradient
  /// in the rotated domain, not yet masked. d_z f32; d_y as above.
  virtual void quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                            Write write) = 0;

  /// As quantized_matmul_grad_input, on integers throughout: G = d_y[m,n] step_n / 2 in f32 is
  /// rounded to integers g with one scale a row m (see LineRounding; the bits are those of `key` at
  /// (m, n)), then d_z[m,k] (= or +=) scale_m * sum_n g_mn (2 qw_nk + 1). The integer is exact;
  /// N <= 32768. Unbiased: the expectation over keys is that of quantized_matmul_grad_input.
  virtual void integer_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                         const RoundingKey& key, Write write) = 0;
  /// As quantized_matmul_grad_weight, likewise: G = d_y[m,n] step_m / 2, one scale a column n and
  /// block of kRoundedRows rows m; d_z[n,k] (= or +=) the sum over blocks, added in turn, of
  /// scale_n * sum_m g_mn (2 qx_mk + 1).
  virtual void integer_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                          const RoundingKey& key, Write write) = 0;

  // --- Packed weights ---
  // A device that cannot run packed models has none of these: they throw Error that says so.

  /// As `quantized_matmul`, with w in its packed form; the same integers and the same roundings.
  /// The codes of x have `x_bits` bits.
  virtual void packed_matmul(Tensor y, const QuantizedRows& x, int x_bits, const PackedRows& w,
                             Write write);
  /// packed_matmul(y, rows, x_bits, w, write) of the rows that quantize_source(rows, source,
  /// quantizer) sets, bit for bit. The rows, which have no mask, and rstd are scratch. y overlaps
  /// nothing that the source names.
  virtual void quantize_packed_matmul(Tensor y, const QuantizedRows& rows, const RowSource& source,
                                      const RowQuantizer& quantizer, int x_bits,
                                      const PackedRows& w, Write write);
  /// y [M, N] (= or +=) x [M, K] (Zw H)^T, where Zw are w's quantized values and H has blocks of
  /// `block` (1: no rotation). x and y float; y may be a column slice. The implementation may round
  /// the rotated x to multiples of 2^-22 of the largest value of its row; where w is approximate,
  /// of 2^-14. Beside an x of bf16 it may round Zw H to bf16.
  virtual void packed_dense_matmul(Tensor y, Tensor x, const PackedRows& w, std::int64_t block,
                                   Write write);
  /// As `matmul`, where w may have another float type than x.
  virtual void stored_matmul(Tensor y, Tensor x, Tensor w, Write write);
  /// x f32 [R, C] = rows of (Z H) at tokens i32 [R], where Z [V, C] are table's quantized values.
  virtual void packed_embedding(Tensor x, Tensor tokens, const PackedRows& table,
                                std::int64_t block);

  // --- The rest of the model ---

  /// x f32 [R, C] = rows of table float [V, C] at tokens i32 [R].
  virtual void embedding(Tensor x, Tensor tokens, Tensor table) = 0;
  /// d_table f32 [V, C] += d_x f32 [R, C] at tokens; the order of sums is fixed.
  virtual void embedding_backward(Tensor d_table, Tensor d_x, Tensor tokens) = 0;

  /// y float [R, C] = x * rstd * weight; rstd f32 [R] = 1 / sqrt(mean x^2 + epsilon). x f32 [R, C],
  /// weight f32 [C].
  virtual void rmsnorm(Tensor y, Tensor rstd, Tensor x, Tensor weight, float epsilon) = 0;
  /// rstd and rows as rmsnorm(y, rstd, x, weight, epsilon) and then quantize_rows(rows, y,
  /// quantizer) set them, bit for bit. y is scratch; its type is that of what is quantized.
  virtual void rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x,
                                Tensor weight, float epsilon, const RowQuantizer& quantizer);
  /// d_x f32 [R, C] += ..., d_weight f32 [C] += ...; d_y float [R, C]. rounded bf16 [R, C] = d_x as
  /// it then stands; may be null.
  virtual void rmsnorm_backward(Tensor d_x, Tensor rounded, Tensor d_weight, Tensor d_y, Tensor x,
                                Tensor weight, Tensor rstd) = 0;

  /// In place on x, float [R, heads * D], may be a column slice: each pair of values of each head
  /// is turned by the angle of its position. cos and sin f32 [positions, D/2]; row r has position
  /// first_position + r % length. `inverse` turns back (the gradient).
  virtual void rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                    std::int64_t first_position, std::int64_t length, bool inverse) = 0;
  /// As `rope`, not inverse, for each span alone: its rows of x have its positions.
  virtual void cached_rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                           const SequenceSpans& spans);

  /// Causal attention. out float [B * query_length, H*D] = softmax(q k^T / sqrt(D), masked) v;
  /// log_sums f32 [B, H, query_length] = log of the softmax denominators (for backward; may be
  /// null). q float [B * query_length, H*D], k and v float [B * key_capacity, Hkv*D]; all may be
  /// column slices and have one type. No T x T matrix is stored for more than a block of rows.
  virtual void attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                         const AttentionShape& shape) = 0;
  /// d_q, d_k, d_v = gradients, shaped as q, k, v; may be column slices. query_length equals
  /// key_length and key_capacity.
  virtual void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                                  Tensor k, Tensor v, Tensor out, Tensor log_sums,
                                  const AttentionShape& shape) = 0;

  /// Puts the rows of x, float [R, Hkv*D], which may be a column slice, at their places in the
  /// cache: row first_row + i of a span at cache_row + position + i. A float cache rounds to its
  /// type; one of 8 bits gets, for each head, scale = largest |x| / 127 and the integers nearest to
  /// x / scale (a row with NaN or infinity: scale NaN).
  virtual void cache_append(const CacheRows& cache, Tensor x, const SequenceSpans& spans) = 0;
  /// cached_rope of the first rotary.columns of qkv, float [R, (H + 2 Hkv) D], may be a column
  /// slice, and then cache_append of its keys to `k` and of its values to `v`, bit for bit. The
  /// spans say positions; rotary.length is not read.
  virtual void cached_rope_append(Tensor qkv, const Rotary& rotary, const CacheRows& k,
                                  const CacheRows& v, const SequenceSpans& spans);
  /// As `attention`, for each span alone: its queries are its rows of q, the last of the
  /// span.key_length() positions in the cache. out and q float [R, H*D], q may be a column slice;
  /// arithmetic has the type of q. What a span computes does not depend on the other spans.
  virtual void cached_attention(Tensor out, Tensor q, const CacheRows& k, const CacheRows& v,
                                const SequenceSpans& spans, const HeadShape& shape) = 0;
  /// The cache and out as cached_rope_append(qkv, rotary, k, v, spans) and then cached_attention of
  /// the turned queries set them, bit for bit. What is left in qkv is not specified; out does not
  /// overlap it.
  virtual void cached_rope_attention(Tensor out, Tensor qkv, const Rotary& rotary,
                                     const CacheRows& k, const CacheRows& v,
                                     const SequenceSpans& spans, const HeadShape& shape);

  /// h float [R, F] = silu(gate) * up; gate and up float [R, F], may be column slices.
  virtual void swiglu(Tensor h, Tensor gate, Tensor up) = 0;
  /// rows as swiglu(h, gate, up) and then quantize_rows(rows, h, quantizer) set them, bit for bit.
  /// h is scratch; its type is that of what is quantized.
  virtual void swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                               const RowQuantizer& quantizer);
  /// d_gate, d_up = gradients; may be column slices and may alias gate and up.
  virtual void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate, Tensor up) = 0;

  /// losses f32 [R] = -log softmax(logits)[target] in nats, 0 where target < 0; correct u8 [R] = 1
  /// where the target has the (first) largest logit. logits f32 [R, V], targets i32 [R].
  /// d_logits float [R, V] = scale * (softmax - onehot), rows of ignored targets 0; may be null,
  /// and each of its rows may begin where the same row of logits does.
  virtual void cross_entropy(Tensor losses, Tensor correct, Tensor d_logits, Tensor logits,
                             Tensor targets, float scale) = 0;

  // --- Optimizer ---

  /// total f64 [1] += sum of x, f32 of any shape. The order of sums is fixed.
  virtual void sum(Tensor total, Tensor x) = 0;
  /// total f64 [1] += sum of x^2, f32 of any shape. The order of sums is fixed.
  virtual void sum_squares(Tensor total, Tensor x) = 0;
  /// scale f32 [1] = min(1, max_norm / (sqrt(s) + 1e-6)), where s is the last of sums, f64 [n]; 1
  /// when max_norm is 0; NaN when any of sums is not finite.
  virtual void clip_scale(Tensor scale, Tensor sums, float max_norm) = 0;
  /// parameter f32: one update with the gradient, f32, times grad_scale f32 [1]. The moments are
  /// rounded after the parameter has moved. Changes nothing when grad_scale is NaN, so a broken
  /// gradient does not reach the weights.
  virtual void adamw(Tensor parameter, const Moment& first, const Moment& second, Tensor gradient,
                     Tensor grad_scale, const AdamWStep& step) = 0;
};

/// The executable specification; single-threaded.
std::unique_ptr<Backend> make_reference_backend();

/// The CPU backend on `threads` threads (0: all that the process may use). The instruction set is
/// the best this CPU has, or the one that the environment variable QUEST_ISA names (generic, avx2,
/// avx512, amx); throws Error when the CPU lacks it.
std::unique_ptr<Backend> make_cpu_backend(int threads);

}  // namespace quest
