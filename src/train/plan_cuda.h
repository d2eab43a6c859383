// Prediction of what a training step takes of a CUDA device beside its arrays.
#pragma once

#include <cstddef>

#include "train/trainer.h"

namespace quest {

/// Bytes of CudaBackend's workspace after a step. The driver's own memory is not counted.
std::size_t cuda_workspace_bytes(const TrainerConfig& config);

}  // namespace quest
