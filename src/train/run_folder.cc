// RunFolder: locking, overwriting and logging.
#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockFile = ".lock";
constexpr const char* kSettingsFile = "train.toml";
// What a run writes; nothing else is ever removed.
constexpr const char* kRunEntries[] = {kSettingsFile,
                                       "log.jsonl",
                                       "checkpoints",
                                       "config.json",
                                       "generation_config.json",
                                       "model.safetensors",
                                       "tokenizer.model",
                                       "tokenizer_config.json"};

// A run that ended before its first step leaves a lock file and an empty log.
bool holds_nothing(const fs::path& path) {
  for (const auto& entry : fs::directory_iterator(path)) {
    const bool empty_log =
        entry.path().filename() == "log.jsonl" && entry.is_regular_file() && entry.file_size() == 0;
    if (entry.path().filename() != kLockFile && !empty_log) return false;
  }
  return true;
}

int lock_folder(const fs::path& path) {
  const fs::path file = path / kLockFile;
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) fail("cannot create {}: {}", file.string(), std::strerror(errno));
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    ::close(descriptor);
    fail("another run is writing to {}; wait for it or choose another --out", path.string());
  }
  return descriptor;
}

// What can be told before the folder is there and locked.
void require_folder(const fs::path& path, FolderMode mode) {
  if (mode == FolderMode::kResume && !fs::exists(path / kSettingsFile)) {
    fail("there is no run to resume in {}", path.string());
  }
  for (fs::path above = path; !above.empty(); above = above.parent_path()) {
    if (!fs::exists(above)) continue;
    if (!fs::is_directory(above)) fail("{} is not a folder", above.string());
    return;
  }
}

void require_content(const fs::path& path, FolderMode mode) {
  if (mode == FolderMode::kResume || holds_nothing(path)) return;
  const bool is_run = fs::exists(path / kSettingsFile);
  if (mode == FolderMode::kNew && is_run) {
    fail(
        "{} exists and is not empty; use --resume to go on with its run, --overwrite to replace "
        "it, or another --out",
        path.string());
  }
  if (mode == FolderMode::kNew) {
    fail("{} holds something, but no run; choose another --out", path.string());
  }
  if (!is_run) {
    fail("{} does not hold a run (it has no train.toml), so --overwrite will not touch it",
         path.string());
  }
}

[[noreturn]] void fail_of_system(const fs::path& path, const fs::filesystem_error& error) {
  fail("cannot use the run folder {}: {}", path.string(), error.code().message());
}

}  // namespace

RunFolder::RunFolder(const fs::path& path, FolderMode mode) : path_(path) {
  try {
    require_folder(path, mode);
    fs::create_directories(path);
    lock_ = lock_folder(path);
    require_content(path, mode);
    if (mode == FolderMode::kOverwrite) {
      for (const char* entry : kRunEntries) fs::remove_all(path / entry);
    }
    open_log();
  } catch (const fs::filesystem_error& error) {
    if (lock_ >= 0) ::close(lock_);
    fail_of_system(path, error);
  } catch (...) {
    if (lock_ >= 0) ::close(lock_);
    throw;
  }
}

void RunFolder::require_usable(const fs::path& path, FolderMode mode) {
  try {
    require_folder(path, mode);
    if (fs::exists(path)) require_content(path, mode);
  } catch (const fs::filesystem_error& error) {
    fail_of_system(path, error);
  }
}

RunFolder::~RunFolder() {
  if (log_ >= 0) ::close(log_);
  if (lock_ >= 0) ::close(lock_);
}

void RunFolder::open_log() {
  log_ = ::open(log_path().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log_ < 0) fail("cannot open {}: {}", log_path().string(), std::strerror(errno));
}

void RunFolder::log(const std::string& line) {
  const std::string text = line + "\n";
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = ::write(log_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot write {}: {}", log_path().string(), std::strerror(errno));
    done += static_cast<std::size_t>(written);
  }
}

void RunFolder::remove_finished_model() {
  std::error_code ignored;
  fs::remove(path_ / "model.safetensors", ignored);
  fs::remove(path_ / "config.json", ignored);
}

void RunFolder::rewind_log(std::int64_t step) {
  const std::string text = read_file(log_path());
  std::string kept;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string line = text.substr(begin, end - begin);
    const auto event = nlohmann::json::parse(line, nullptr, false);
    begin = end + 1;
    if (!event.is_object()) continue;
    if (event.contains("step") && event["step"].is_number() && event["step"] > step) continue;
    kept += line + "\n";
  }
  ::close(log_);
  log_ = -1;
  write_file(log_path(), kept);
  open_log();
}

}  // namespace quest
