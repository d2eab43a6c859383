// What a training run will need in memory, before anything of it is allocated.
#pragma once

#include <cstddef>
#include <cstdint>

#include "train/trainer.h"

namespace quest {

/// Whose memory is predicted: the host's, with the workspace of CpuBackend or (reference) none, or
/// that of a CUDA device.
enum class RunDevice : std::uint8_t { kReference, kCpu, kCuda };

/// What, beside the trainer's configuration, decides how much memory a run takes.
struct RunConditions {
  RunDevice device = RunDevice::kCpu;
  int threads = 1;                ///< that kernels run on
  std::size_t data_bytes = 0;     ///< of both token sets; mapped shards count like memory
  std::size_t loading_bytes = 0;  ///< more while data is read: of the larger set made from text
  bool samples = false;           ///< text is sampled during the run
};

/// Peak resident bytes of a run by what they are for; on a CUDA device those that it allocates,
/// without the driver's own, and none for data and program.
struct RunMemory {
  Trainer::Bytes trainer;
  std::size_t workspace = 0;  ///< scratch of the kernels
  std::size_t sampling = 0;   ///< key-value cache and activations of sampling
  std::size_t data = 0;       ///< the tokens
  std::size_t program = 0;    ///< the binary, its libraries, generated code, buffers of files
  std::size_t start = 0;      ///< the program's part before training
  std::size_t loading = 0;    ///< on top of data while it is read, before training

  /// The peak, which a small model on much text has while it reads the text.
  std::size_t total() const;
};

/// Predicts the peak memory of `quest train`. The trainer's part is what it allocates; the
/// workspace follows the requests of the backend's kernels; the program's part is measured.
RunMemory predict_run_memory(const TrainerConfig& config, const RunConditions& conditions);

}  // namespace quest
