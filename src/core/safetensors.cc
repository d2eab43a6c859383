// Reading and writing of safetensors files.
#include "core/safetensors.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/error.h"

namespace quest {
namespace {

using Json = nlohmann::json;

constexpr const char* kMetadataKey = "__metadata__";
constexpr const char* kChecksumKey = "quest.checksum";
constexpr const char* kNoChecksum = "0000000000000000";
constexpr std::size_t kPrefixBytes = 8;
constexpr std::size_t kMaxHeaderBytes = std::size_t{100} << 20;
constexpr std::size_t kDataAlignment = 64;

Tensor parse_entry(const Json& entry, std::span<const std::byte> data) {
  const DType dtype = dtype_from_name(entry.at("dtype").get<std::string>());
  const Json& sizes = entry.at("shape");
  if (!sizes.is_array() || sizes.size() > Shape::kMaxRank) fail("its shape has more than 4 axes");
  std::int64_t size[Shape::kMaxRank] = {};
  std::uint64_t bytes = size_bytes(dtype);
  for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
    if (!sizes[axis].is_number_unsigned()) fail("its shape is not made of sizes");
    const auto value = sizes[axis].get<std::uint64_t>();
    if (value > data.size() + 1 || __builtin_mul_overflow(bytes, value, &bytes)) {
      fail("its shape is larger than the file");
    }
    size[axis] = static_cast<std::int64_t>(value);
  }
  Shape shape;
  if (sizes.size() == 1) shape = {size[0]};
  if (sizes.size() == 2) shape = {size[0], size[1]};
  if (sizes.size() == 3) shape = {size[0], size[1], size[2]};
  if (sizes.size() == 4) shape = {size[0], size[1], size[2], size[3]};
  const Json& offsets = entry.at("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    fail("its data_offsets are not two offsets");
  }
  const auto begin = offsets[0].get<std::uint64_t>();
  const auto end = offsets[1].get<std::uint64_t>();
  if (begin > end || end > data.size()) fail("its data ends after the file does (cut short?)");
  if (end - begin != bytes) fail("its data does not have the size that its shape asks for");
  return Tensor(const_cast<std::byte*>(data.data() + begin), shape, dtype);
}

// The header as JSON; null if it is none. A name that stands twice in an object, of which the
// parser would keep one in silence, is reported in `twice`.
Json parse_header(const char* text, std::size_t size, std::string& twice) {
  std::vector<std::set<std::string>> names;  // of the objects that are open
  const auto note_names = [&](int, Json::parse_event_t event, const Json& parsed) {
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names.back().insert(name).second) twice = name;
    }
    return true;
  };
  return Json::parse(text, text + size, note_names, false);
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const auto bytes = file_.bytes();
  const std::string where = path.string();
  if (bytes.size() < kPrefixBytes) fail("{} is too short to be a safetensors file", where);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kPrefixBytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kPrefixBytes) {
    fail("{} is not a safetensors file, or is cut short: its header would have {} bytes", where,
         header_bytes);
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data() + kPrefixBytes);
  std::string twice;
  const Json header = parse_header(text, header_bytes, twice);
  if (!header.is_object()) fail("{}: the safetensors header is not a JSON object", where);
  if (!twice.empty()) fail("{}: the header has '{}' twice in one object", where, twice);
  const auto data = bytes.subspan(kPrefixBytes + header_bytes);
  for (const auto& [name, entry] : header.items()) {
    try {
      if (name == kMetadataKey) {
        metadata_ = entry.get<std::map<std::string, std::string>>();
      } else {
        tensors_.emplace(name, parse_entry(entry, data));
      }
    } catch (const Json::exception&) {
      fail("{}: the header's entry '{}' is malformed", where, name);
    } catch (const Error& error) {
      fail("{}: tensor '{}': {}", where, name, error.what());
    }
  }
  require_no_overlap();
}

void SafetensorsFile::require_no_overlap() const {
  std::vector<std::pair<const std::byte*, const std::string*>> begins;
  for (const auto& [name, tensor] : tensors_) {
    if (tensor.bytes() > 0) begins.emplace_back(static_cast<const std::byte*>(tensor.data), &name);
  }
  std::sort(begins.begin(), begins.end());
  for (std::size_t i = 1; i < begins.size(); ++i) {
    const auto& [before, name] = begins[i - 1];
    if (before + tensors_.at(*name).bytes() > begins[i].first) {
      fail("{}: the tensors '{}' and '{}' share bytes", file_.path().string(), *name,
           *begins[i].second);
    }
  }
}

void SafetensorsFile::verify(bool checksum_required) const {
  const auto found = metadata_.find(kChecksumKey);
  if (found == metadata_.end()) {
    if (checksum_required) fail("{} is damaged: it has no checksum", file_.path().string());
    return;
  }
  const auto bytes = file_.bytes();
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kPrefixBytes);
  std::string head(reinterpret_cast<const char*>(bytes.data()), kPrefixBytes + header_bytes);
  const std::size_t position = head.find(found->second, head.find(kChecksumKey));
  if (found->second.size() == std::strlen(kNoChecksum) && position != std::string::npos) {
    head.replace(position, found->second.size(), kNoChecksum);
  }
  Checksum checksum;
  checksum.update(head.data(), head.size());
  checksum.update(bytes.data() + head.size(), bytes.size() - head.size());
  if (checksum.hex() != found->second) {
    fail("{} is damaged: its checksum is {}, its content gives {}", file_.path().string(),
         found->second, checksum.hex());
  }
}

const Tensor& SafetensorsFile::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("{} has no tensor '{}'", file_.path().string(), name);
  return found->second;
}

const Tensor& SafetensorsFile::tensor(const std::string& name, DType dtype,
                                      const Shape& shape) const {
  const Tensor& found = tensor(name);
  if (found.dtype != dtype || found.shape != shape) {
    fail("{}: tensor '{}' is {} {}, expected {} {}", file_.path().string(), name,
         quest::name(found.dtype), found.shape.to_string(), quest::name(dtype), shape.to_string());
  }
  return found;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     const std::vector<TensorEntry>& entries,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  nlohmann::ordered_json header;
  header[kMetadataKey] = metadata;
  header[kMetadataKey][kChecksumKey] = kNoChecksum;
  for (const TensorEntry& tensor : entries) {
    auto& entry = header[tensor.name];
    entry["dtype"] = name(tensor.dtype);
    entry["shape"] = nlohmann::ordered_json::array();
    for (int axis = 0; axis < tensor.shape.rank(); ++axis) {
      entry["shape"].push_back(tensor.shape[axis]);
    }
    const auto bytes = static_cast<std::uint64_t>(tensor.shape.numel()) * size_bytes(tensor.dtype);
    entry["data_offsets"] = {bytes_left_, bytes_left_ + bytes};
    bytes_left_ += bytes;
  }
  std::string text = header.dump();
  // Spaces after the JSON keep the data aligned, as the format allows.
  text.append((kDataAlignment - (kPrefixBytes + text.size()) % kDataAlignment) % kDataAlignment,
              ' ');
  checksum_offset_ = kPrefixBytes + text.find(kNoChecksum, text.find(kChecksumKey));
  const std::uint64_t header_bytes = text.size();
  put(&header_bytes, kPrefixBytes);
  put(text.data(), text.size());
}

void SafetensorsWriter::put(const void* data, std::size_t size) {
  checksum_.update(data, size);
  file_.write(data, size);
}

void SafetensorsWriter::write(const Tensor& tensor) {
  assert(tensor.is_contiguous() && tensor.place == Place::kHost && tensor.bytes() <= bytes_left_);
  put(tensor.data, tensor.bytes());
  bytes_left_ -= tensor.bytes();
}

void SafetensorsWriter::commit() {
  assert(bytes_left_ == 0);
  file_.write_at(checksum_offset_, checksum_.hex().data(), std::strlen(kNoChecksum));
  file_.commit();
}

void write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : tensors) entries.push_back({name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(path, entries, metadata);
  for (const auto& [name, tensor] : tensors) writer.write(tensor);
  writer.commit();
}

}  // namespace quest
