// NewFolder: a folder that appears whole or not at all, and never in place of another.
#pragma once

#include <filesystem>

namespace quest {

/// Makes `path` + ".tmp", to be filled, and moves it to `path` at the end. Without `commit` (an
/// error, an exception) that folder is removed with what is in it. Nothing that stood there before
/// is ever touched: every member throws Error when `path` is there and is not an empty folder, when
/// the temporary folder is there already, or when the system refuses.
class NewFolder {
 public:
  /// Makes the parents of `path` too, where they are missing.
  explicit NewFolder(const std::filesystem::path& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  /// Where to write until `commit`.
  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

}  // namespace quest
