// RunFolder: the folder that a training run owns, and its log.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/file.h"

namespace quest {

/// What to do about a folder that exists already.
enum class FolderMode : std::uint8_t {
  kNew,        ///< it must be absent or empty
  kOverwrite,  ///< remove what an earlier run left in it
  kResume,     ///< it must hold a run
};

/// Holds an exclusive lock on `path` for its lifetime, so that two runs never share a folder.
///
///   train.toml     the run's settings
///   log.jsonl      one JSON object an event
///   checkpoints/   see checkpoint.h
///   config.json, model.safetensors, ...   the finished model
class RunFolder {
 public:
  /// Throws Error when the mode does not fit what is there, when a folder to be overwritten holds
  /// something else than a run, or when another process holds the lock.
  RunFolder(const std::filesystem::path& path, FolderMode mode);
  /// Throws what the constructor would, but touches nothing, nor sees another process's lock.
  static void require_usable(const std::filesystem::path& path, FolderMode mode);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path settings_path() const { return path_ / "train.toml"; }
  std::filesystem::path log_path() const { return path_ / "log.jsonl"; }

  /// Appends `line` and a line end to log.jsonl. Throws Error when the disk is full.
  void log(const std::string& line);
  /// Removes the finished model: the run goes on, and its checkpoints are newer.
  void remove_finished_model();
  /// Drops the log's events of steps after `step`: they will happen again. Also drops a last line
  /// that a killed process left unfinished.
  void rewind_log(std::int64_t step);

 private:
  void open_log();

  std::filesystem::path path_;
  int lock_ = -1;
  int log_ = -1;
};

}  // namespace quest
