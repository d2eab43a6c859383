// FloatRow: a row of f32 or bf16 values, as kernels of one instruction set are given it.
#pragma once

namespace quest {

/// A row of f32 or bf16 values.
struct FloatRow {
  void* data;
  bool bf16;
};

}  // namespace quest
