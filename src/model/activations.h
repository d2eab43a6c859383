// Activations: the memory of one forward pass, and of backward where there is one.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "backend/arena.h"
#include "model/config.h"
#include "model/quant_linear.h"

namespace quest {

/// What a pass that backward follows does not keep of each block, but makes again in backward, with
/// the same bits.
enum class Recompute : std::uint8_t {
  kNone,
  kNorm,   ///< what norms and SwiGLU hand to the linear layers
  kBlock,  ///< everything but the block's input
};
/// "none", "norm", "block".
std::string_view recompute_name(Recompute recompute);
/// Throws Error when there is no such name.
Recompute recompute_from_name(std::string_view name);

/// How many tokens a pass takes and what follows it.
struct PassShape {
  std::int64_t batch;   ///< B
  std::int64_t length;  ///< T, new positions a sequence
  bool backward;        ///< keep what backward reads: a slot a layer instead of one, reused
  Recompute recompute = Recompute::kNone;

  std::int64_t rows() const { return batch * length; }
};

/// What one block computes and backward reads. Float tensors are of the compute type unless said.
struct LayerActivations {
  Tensor residual;      ///< f32 [R, C]: the block's input
  Tensor attn_rstd;     ///< f32 [R]
  LinearInput qkv_in;   ///< of the normalized residual [R, C]
  Tensor qkv;           ///< [R, (H + 2 Hkv) D], turned; scratch where a cache keeps it
  Tensor log_sums;      ///< f32 [B, H, T]
  Tensor attn_out;      ///< [R, H D]
  LinearInput out_in;   ///< of attn_out
  Tensor mid_residual;  ///< f32 [R, C]: after attention; without backward in residual's memory
  Tensor mlp_rstd;      ///< f32 [R]
  LinearInput gate_up_in;
  Tensor gate_up;       ///< [R, 2 F]
  LinearInput down_in;  ///< of silu(gate) * up [R, F]
};

/// What the head computes for one chunk of rows; logits of a whole batch are never stored.
struct HeadChunk {
  std::int64_t rows;
  LinearInput input;
  Tensor logits;    ///< f32 [rows, V]
  Tensor d_logits;  ///< of the compute type, in the logits' own memory
};

/// Scratch of backward, shared by all blocks. Of the compute type unless said.
struct BackwardScratch {
  Tensor d_residual;  ///< f32 [R, C]
  Tensor d_output;    ///< [R, C]: d_residual in the compute type
  Tensor d_wide;      ///< [R, max(C, H D, F)], flat: gradient of a linear layer's input
  Tensor d_rotated;   ///< as d_wide: the same in the rotated domain; null if nothing rotates
  Tensor d_qkv;       ///< [R, (H + 2 Hkv) D]
};

/// All of the above for one shape of pass. Built by Llama::make_activations.
struct Activations {
  PassShape shape;
  /// One a layer. What is not kept lies in one memory for all, and holds what the last block that
  /// ran left there: without backward everything, else what `shape.recompute` says.
  std::vector<LayerActivations> slots;
  Tensor last_residual;  ///< f32 [R, C]: the last block's output; without backward likewise
  Tensor final_rstd;     ///< f32 [R]
  Tensor final_x;        ///< [R, C]: normalized, what the head reads
  Tensor losses;         ///< f32 [R], nats
  Tensor correct;        ///< u8 [R]
  Tensor error_sums;     ///< f64 [3], scratch of error probes
  HeadChunk head;
  BackwardScratch scratch;

  const LayerActivations& slot(std::int64_t layer) const {
    return slots[static_cast<std::size_t>(layer)];
  }
  /// Where block `layer - 1` writes and block `layer` reads.
  Tensor residual(std::int64_t layer, std::int64_t layers) const {
    return layer == layers ? last_residual : slot(layer).residual;
  }
};

/// A [rows, columns] view of the start of a flat scratch tensor.
inline Tensor scratch_view(Tensor flat, std::int64_t rows, std::int64_t columns) {
  return Tensor(flat.data, {rows, columns}, flat.dtype, flat.place);
}

}  // namespace quest
