// Sequential reading of a plain or zstd-compressed file in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace quest {

/// Bytes in order. Errors name the file.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  /// Reads up to `capacity` (> 0) bytes into `out` and returns how many; 0 only at the end. Throws
  /// Error when the file cannot be read, is damaged, or is a .zst that stops before its end.
  virtual std::size_t read(char* out, std::size_t capacity) = 0;
  /// How many bytes of the file (compressed where it is) have been read.
  virtual std::uint64_t position() const = 0;
};

/// Opens `path`, decompressing when its name ends in ".zst". Throws Error when it cannot be opened.
std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path);

}  // namespace quest
