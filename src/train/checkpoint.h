// Checkpoints: everything a run needs to go on as if it had never stopped.
//
// A checkpoint is a model folder (config.json, model.safetensors, tokenizer,
// generation_config.json) plus optimizer.safetensors and, written last, trainer_state.json, which
// holds the checksums of the other text files and of itself. A folder without a valid state file is
// not a checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
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
  std::string data;  ///< identity of the training set, to notice another one

  bool operator==(const TrainerState&) const = default;
};

/// Writes the model folder that users and `quest eval` open: into `folder`, which may exist.
void save_model_folder(const Model& model, const Tokenizer& tokenizer,
                       const std::filesystem::path& folder);

/// Writes a checkpoint as `folder`, atomically: into `folder`.tmp, renamed when complete. Throws
/// Error (a full disk, ...) and then leaves no trace.
void save_checkpoint(Trainer& trainer, const TrainerState& state, const Tokenizer& tokenizer,
                     const std::filesystem::path& folder);

/// Reads everything and compares all checksums. Throws Error that names the damage.
void verify_checkpoint(const std::filesystem::path& folder);

/// The newest checkpoint of a run that `verify_checkpoint` accepts; none: nothing was saved yet.
/// `damaged` is called with the text about each newer one that was passed over. Throws the newest
/// one's Error when there are checkpoints and all are damaged.
std::optional<std::filesystem::path> find_newest_checkpoint(
    const std::filesystem::path& run_folder,
    const std::function<void(const std::string& why)>& damaged);

/// Sets weights, moments and step from a verified checkpoint. Throws Error that names the first key
/// in which the checkpoint's model or scheme and the trainer's differ.
TrainerState load_checkpoint(Trainer& trainer, const std::filesystem::path& folder);

/// "checkpoints/step-00000500" below `run_folder`.
std::filesystem::path checkpoint_path(const std::filesystem::path& run_folder, std::int64_t step);

/// All checkpoints of a run that have a state file, oldest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run_folder);

/// Renames all checkpoints of a run that are newer than `kept` (none: all of them) to
/// "NAME.damaged", so that a run that goes on from `kept` neither counts nor trips over them.
void set_aside_newer_checkpoints(const std::filesystem::path& run_folder,
                                 const std::optional<std::filesystem::path>& kept);

/// Removes all but the newest `keep` checkpoints (at least one), and what killed saves left behind.
void prune_checkpoints(const std::filesystem::path& run_folder, std::int64_t keep);

}  // namespace quest
