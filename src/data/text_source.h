// Streams the documents of text files in chunks of bounded size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace quest {

/// A piece of one document: well-formed UTF-8 without NUL, never empty.
struct TextChunk {
  std::string text;
  bool starts_document = false;
};

/// Reads one file; the formats derive from it.
class DocumentReader {
 public:
  virtual ~DocumentReader() = default;
  /// Sets `chunk` and returns true, or returns false at the end of the file.
  virtual bool next(TextChunk& chunk) = 0;
  /// How many bytes of the file have been read.
  virtual std::uint64_t position() const = 0;
};

/// All documents that match some patterns, in order of pattern, then of path, then of place in the
/// file. Formats by name: .txt (a file is one document) and .jsonl (a line is one document, in its
/// field "text"), each also with .zst after it. Empty documents are left out.
///
/// A document longer than `kMaxChunkBytes` comes in several chunks, cut after a newline where
/// there is one, else before a space, else between characters. The cuts depend on the document's
/// text alone. A .jsonl line is held in memory whole; everything else in a few chunks' memory.
class TextSource {
 public:
  static constexpr std::size_t kMaxChunkBytes = std::size_t{1} << 20;
  static constexpr std::size_t kMaxLineBytes = std::size_t{256} << 20;

  /// `patterns` as for `expand_glob`; of a folder, the files of the formats above are
  /// taken; folders that a pattern matches are passed over. Throws
  /// Error when a pattern matches nothing or a file has none of the names above.
  explicit TextSource(const std::vector<std::string>& patterns);

  /// Sets `chunk` and returns true, or returns false at the end. Throws Error for a file that
  /// cannot be read, a .zst cut short, invalid UTF-8 or a NUL (with the offset in bytes), a bad
  /// JSON line (with its number), and at the end when there was no text at all.
  bool next(TextChunk& chunk);
  /// The share of the files' bytes that has been read, 0 to 1.
  double fraction() const;

 private:
  std::string description_;
  std::vector<std::filesystem::path> paths_;
  std::size_t next_path_ = 0;
  std::unique_ptr<DocumentReader> reader_;
  std::uint64_t total_bytes_ = 0;  ///< Of all files.
  std::uint64_t done_bytes_ = 0;   ///< Of the files that are read.
  bool any_text_ = false;
};

}  // namespace quest
