// Files: read-only mappings, and writes that either happen whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

/// A read-only memory map of a whole file. Throws Error when the file cannot be opened.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The file that a write to `path` replaces or makes: `path`, or where its symbolic links lead.
/// Throws Error when a folder, device, pipe or socket stands there, or the links lead in a circle.
std::filesystem::path replaced_file(const std::filesystem::path& path);

/// Writes to a new file beside replaced_file(`path`), with ".tmp" behind its name where that is
/// free; `commit` flushes to disk and renames. Without `commit` (an error, an exception) the new
/// file is removed and whatever stood at `path` is untouched.
/// Every member throws Error with the system's reason, for instance on a full disk.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t size_bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Overwrites bytes that were written before, at `offset` from the start.
  void write_at(std::uint64_t offset, const void* data, std::size_t size_bytes);
  void commit();

 private:
  void flush();

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  std::vector<std::byte> buffer_;
};

/// Replaces the file at `path` by `text`, atomically.
void write_file(const std::filesystem::path& path, std::string_view text);

/// The whole file as text. Throws Error when it cannot be read.
std::string read_file(const std::filesystem::path& path);

/// Makes a rename or creation inside `folder` durable (fsync of the directory).
void sync_directory(const std::filesystem::path& folder);

/// Paths that match `pattern`, sorted: a file, a folder (its regular files, not recursive), or a
/// pattern with * and ? . Throws Error when nothing matches.
std::vector<std::filesystem::path> expand_glob(const std::string& pattern);

/// A 64-bit checksum that runs at memory speed: eight multiply-rotate lanes over 64-byte blocks.
/// Detects accidents (a flipped bit, a cut file), not forgery.
class Checksum {
 public:
  void update(const void* data, std::size_t size_bytes);
  std::uint64_t digest() const;
  /// `digest` as 16 hexadecimal digits.
  std::string hex() const;

 private:
  void absorb(const std::byte* block);

  std::uint64_t lanes_[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  std::byte tail_[64] = {};
  std::uint64_t total_bytes_ = 0;
};

}  // namespace quest
