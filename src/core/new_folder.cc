// Making, moving and removing the temporary folder of NewFolder.
#include "core/new_folder.h"

#include <system_error>

#include "core/error.h"
#include "core/file.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

// "a/b/" is "a/b": what goes beside it must not go into it.
fs::path without_slash(const fs::path& path) {
  const fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

}  // namespace

NewFolder::NewFolder(const fs::path& path)
    : path_(without_slash(path)), temporary_(path_.string() + ".tmp") {
  if (const fs::path name = path_.filename(); name == "." || name == "..") {
    fail("{} cannot be made anew: name the folder itself", path.string());
  }
  std::error_code error;
  if (fs::is_symlink(path_, error)) {
    fail("{} is a symbolic link: name the folder itself", path_.string());
  }
  if (fs::exists(path_, error)) {
    if (!fs::is_directory(path_, error)) {
      fail("{} is not a folder: choose another name", path_.string());
    }
    if (!fs::is_empty(path_, error)) {
      fail("{} is not an empty folder: choose another name", path_.string());
    }
  }
  if (path_.has_parent_path()) fs::create_directories(path_.parent_path(), error);
  if (fs::create_directory(temporary_, error)) return;
  if (error) fail("cannot make the folder {}: {}", temporary_.string(), error.message());
  fail(
      "{} exists: either another run is writing this folder, or one was killed; if none is "
      "running, delete it",
      temporary_.string());
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void NewFolder::commit() {
  // The system moves a folder onto an empty one, and onto nothing else.
  std::error_code error;
  fs::rename(temporary_, path_, error);
  if (error) fail("cannot move {} to {}: {}", temporary_.string(), path_.string(), error.message());
  committed_ = true;
  sync_directory(path_.parent_path());
}

}  // namespace quest
