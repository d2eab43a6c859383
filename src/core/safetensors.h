// The safetensors container: named tensors and string metadata in one file.
// Format: u64 little-endian header size, a JSON header, the data. Checkpoints, exports and goldens
// all use it, so Python reads all three.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/tensor.h"

namespace quest {

/// A tensor under the name that the file gives it.
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// A memory-mapped safetensors file. Every claim of the header is checked on opening: a file cut
/// short, an offset outside the data, a shape that disagrees with its size, a name that stands
/// twice or tensors that share bytes throw Error.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  /// Compares the file's bytes with the checksum that `write_safetensors` stored and throws Error
  /// when they disagree, or when `checksum_required` and there is none. Files of other programs
  /// carry none.
  void verify(bool checksum_required) const;

  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  /// A view into the map (read-only memory). Throws Error when the name is absent.
  const Tensor& tensor(const std::string& name) const;
  /// As above, and throws Error unless type and shape are as expected.
  const Tensor& tensor(const std::string& name, DType dtype, const Shape& shape) const;
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  void require_no_overlap() const;

  MappedFile file_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// A tensor that a file is to hold.
struct TensorEntry {
  std::string name;
  DType dtype;
  Shape shape;
};

/// Writes a file whose tensors come one after the other, so that no more than one need be in
/// memory. Without `commit` nothing appears at `path`.
class SafetensorsWriter {
 public:
  /// Writes the header. Throws Error when the file cannot be made.
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorEntry>& entries,
                    const std::map<std::string, std::string>& metadata);

  /// The next entry's values: contiguous, on the host, of its type and shape.
  void write(const Tensor& tensor);
  /// After the last entry: the checksum over every byte, then the file is whole.
  void commit();

 private:
  void put(const void* data, std::size_t size_bytes);

  AtomicFile file_;
  Checksum checksum_;
  std::uint64_t checksum_offset_ = 0;
  std::uint64_t bytes_left_ = 0;
};

/// Writes contiguous host tensors in the given order, atomically, with a checksum over every byte.
void write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace quest
