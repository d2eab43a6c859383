// For fuzzers of folders: one that lies in memory and goes away with the process.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace quest {

/// The process's folder for the files of a run.
inline const std::filesystem::path& fuzz_folder() {
  static const std::filesystem::path path = [] {
    const bool in_memory = std::filesystem::is_directory("/dev/shm");
    const std::filesystem::path parent =
        in_memory ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string name = (parent / "quest_fuzz_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    static const std::string made = name;
    std::atexit([] { std::filesystem::remove_all(made); });
    return std::filesystem::path(name);
  }();
  return path;
}

/// Replaces the file `name` in it.
inline void put_fuzz_file(const std::string& name, std::string_view content) {
  std::ofstream(fuzz_folder() / name, std::ios::binary | std::ios::trunc) << content;
}

}  // namespace quest
