// Checkpoints: everything a run needs to go on as if it had never stopped.
//
// A checkpoint is a model folder (config.json, model.safetensors, tokenizer,
// generation_config.json) plus optimizer.safetensors and, written last, trainer_state.json, which
// holds the checksums of the other text files and of itself. A folder without a valid state file is
// not a checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "train/trainer.h"

namespace quest {

/// What trainer_state.json holds. Batches are a function of the step, so this is all that a run
/// needs beside weights and moments.
struct TrainerState {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  std::uint64_t seed = 0;
  std::uint64_t data_seed = 0;

  bool operator==(const TrainerState&) const = default;
};

/// Writes the model folder that users and `quest eval` open: into `folder`, which may exist.
void save_model_folder(const Model& model, const Tokenizer& tokenizer,
                       const std::filesystem::path& folder);

/// Writes a checkpoint as `folder`, atomically: into `folder`.tmp, renamed when complete. Throws
/// Error (a full disk, ...) and then leaves no trace.
void save_checkpoint(Trainer& trainer, const TrainerState& state, const Tokenizer& tokenizer,
                     const std::filesystem::path& folder);

/// Verifies all checksums, then sets weights, moments and step. Throws Error that names the damage,
/// or the first key of model or scheme in which the checkpoint and the trainer differ.
TrainerState load_checkpoint(Trainer& trainer, const std::filesystem::path& folder);

/// "checkpoints/step-00000500" below `run_folder`.
std::filesystem::path checkpoint_path(const std::filesystem::path& run_folder, std::int64_t step);

/// All checkpoints of a run that have a state file, oldest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run_folder);

/// Removes all but the newest `keep` checkpoints (at least one), and what killed saves left behind.
void prune_checkpoints(const std::filesystem::path& run_folder, std::int64_t keep);

}  // namespace quest
