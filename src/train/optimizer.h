// AdamW over a model's parameters, with the moments in an arena of their own.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/arena.h"
#include "core/safetensors.h"
#include "model/model.h"

namespace quest {

struct OptimizerConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  ///< on the matrices inside the blocks only (method section 4)
  double grad_clip = 1.0;     ///< largest global norm; 0: no clipping
  int moment_bits = 32;       ///< of both moments: 32 (f32), 16 (bf16) or 8 (see Moment)
};

/// Owns the two moments. The model must outlive it and be one that trains.
class AdamW {
 public:
  AdamW(Model& model, const OptimizerConfig& config);

  /// Sets what differs from one update to the next; `step` counts from 1.
  void begin_step(double learning_rate, std::int64_t step);
  /// Clips and applies the gradients that lie in the model. The last of `sums`, f64 [n], becomes
  /// the square of their global norm before clipping. When any of the sums is not finite, nothing
  /// else is changed.
  void update(Tensor sums);

  /// The moments under the parameters' names, with "exp_avg." and "exp_avg_sq." before them; scales
  /// of 8-bit moments end in ".scales".
  std::vector<NamedTensor> moments() const;
  /// Sets the moments. Throws Error when one is missing or of another shape.
  void load_moments(const SafetensorsFile& file);

  /// Bytes of both moments for a model with `parameter_bytes` of f32 weights, but for alignment.
  static std::size_t measure(std::size_t parameter_bytes, int moment_bits);

 private:
  struct Slot {
    Parameter parameter;
    Moment first;
    Moment second;
  };
  std::vector<Slot> take_slots(Arena& moments) const;

  Model& model_;
  OptimizerConfig config_;
  Arena moments_;
  Arena scalars_;
  Tensor grad_scale_;  // f32 [1]
  AdamWStep decayed_;
  AdamWStep undecayed_;
  std::vector<Slot> slots_;
};

}  // namespace quest
