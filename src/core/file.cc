// POSIX implementation of file.h.
#include "core/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace quest {
namespace {

constexpr std::size_t kWriteBufferBytes = std::size_t{1} << 20;
constexpr int kTemporaryNames = 1000;
constexpr int kMostLinks = 40;  // as many as the system follows

std::string reason() { return std::strerror(errno); }

void write_all(int descriptor, const std::byte* data, std::size_t size,
               const std::filesystem::path& path) {
  while (size > 0) {
    const ssize_t written = ::write(descriptor, data, size);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("cannot write {}: {}", path.string(), reason());
    }
    data += written;
    size -= static_cast<std::size_t>(written);
  }
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  // Opening a pipe waits for its other end, unless O_NONBLOCK; regular files do not heed the flag.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail("cannot open {}: {}", path.string(), reason());
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    fail("{} is not a regular file", path.string());
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ > 0) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, 0);
    if (address == MAP_FAILED) {
      const std::string why = reason();
      ::close(descriptor);
      fail("cannot map {}: {}", path.string(), why);
    }
    data_ = static_cast<const std::byte*>(address);
  }
  ::close(descriptor);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

std::filesystem::path replaced_file(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) fail("{} is a folder, not a file to write", path.string());
    if (!S_ISREG(status.st_mode)) {
      fail("{} is a device, pipe or socket: the output must be a regular file", path.string());
    }
  } else if (errno == ELOOP) {
    fail("cannot create {}: {}", path.string(), reason());
  }
  std::filesystem::path target = path;
  std::error_code error;
  for (int link = 0; link < kMostLinks; ++link) {
    const std::filesystem::path next = std::filesystem::read_symlink(target, error);
    if (error) break;  // no link
    target = target.parent_path() / next;
  }
  return target;
}

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(replaced_file(path)) {
  // A name that is taken belongs to someone: the user, another run, or one that was killed.
  for (int number = 1; number <= kTemporaryNames && descriptor_ < 0; ++number) {
    temporary_ = path_.string() + (number == 1 ? ".tmp" : fmt::format(".tmp-{}", number));
    descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) fail("cannot create {}: {}", temporary_.string(), reason());
  buffer_.reserve(kWriteBufferBytes);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, std::size_t size_bytes) {
  const auto* bytes = static_cast<const std::byte*>(data);
  if (buffer_.size() + size_bytes > kWriteBufferBytes) flush();
  if (size_bytes >= kWriteBufferBytes) {
    write_all(descriptor_, bytes, size_bytes, path_);
  } else {
    buffer_.insert(buffer_.end(), bytes, bytes + size_bytes);
  }
}

void AtomicFile::write_at(std::uint64_t offset, const void* data, std::size_t size_bytes) {
  flush();
  if (::pwrite(descriptor_, data, size_bytes, static_cast<off_t>(offset)) !=
      static_cast<ssize_t>(size_bytes)) {
    fail("cannot write {}: {}", path_.string(), reason());
  }
}

void AtomicFile::commit() {
  flush();
  if (::fsync(descriptor_) != 0) fail("cannot flush {}: {}", path_.string(), reason());
  if (::close(std::exchange(descriptor_, -1)) != 0) {
    const std::string why = reason();
    ::unlink(temporary_.c_str());
    fail("cannot close {}: {}", path_.string(), why);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const std::string why = reason();
    ::unlink(temporary_.c_str());
    fail("cannot rename {} to {}: {}", temporary_.string(), path_.string(), why);
  }
  sync_directory(path_.parent_path());
}

void AtomicFile::flush() {
  write_all(descriptor_, buffer_.data(), buffer_.size(), path_);
  buffer_.clear();
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string read_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void sync_directory(const std::filesystem::path& folder) {
  const std::filesystem::path target = folder.empty() ? "." : folder;
  const int descriptor = ::open(target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail("cannot open folder {}: {}", target.string(), reason());
  ::fsync(descriptor);  // Some file systems refuse this on folders; the rename stands regardless.
  ::close(descriptor);
}

std::vector<std::filesystem::path> expand_glob(const std::string& pattern) {
  std::vector<std::filesystem::path> paths;
  std::error_code unreadable;  // is told when it is opened
  if (std::filesystem::is_directory(pattern, unreadable)) {
    for (const auto& entry : std::filesystem::directory_iterator(pattern)) {
      if (entry.is_regular_file()) paths.push_back(entry.path());
    }
  } else {
    glob_t matches{};
    if (::glob(pattern.c_str(), 0, nullptr, &matches) == 0) {
      paths.assign(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
    }
    ::globfree(&matches);
  }
  if (paths.empty()) fail("no file matches '{}'", pattern);
  std::sort(paths.begin(), paths.end());
  return paths;
}

void Checksum::absorb(const std::byte* block) {
  constexpr std::uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
  for (int lane = 0; lane < 8; ++lane) {
    std::uint64_t word;
    std::memcpy(&word, block + 8 * lane, 8);
    lanes_[lane] = std::rotl((lanes_[lane] ^ word) * kMultiplier, 29);
  }
}

void Checksum::update(const void* data, std::size_t size_bytes) {
  const auto* bytes = static_cast<const std::byte*>(data);
  const std::size_t held = total_bytes_ % 64;
  total_bytes_ += size_bytes;
  if (held > 0) {
    const std::size_t taken = std::min(size_bytes, 64 - held);
    std::memcpy(tail_ + held, bytes, taken);
    bytes += taken;
    size_bytes -= taken;
    if (held + taken < 64) return;
    absorb(tail_);
  }
  for (; size_bytes >= 64; bytes += 64, size_bytes -= 64) absorb(bytes);
  if (size_bytes > 0) std::memcpy(tail_, bytes, size_bytes);
}

std::uint64_t Checksum::digest() const {
  Checksum last = *this;
  const std::size_t held = total_bytes_ % 64;
  std::memset(last.tail_ + held, 0, 64 - held);
  last.absorb(last.tail_);
  std::uint64_t hash = total_bytes_;
  for (const std::uint64_t lane : last.lanes_) {
    hash = (std::rotl(hash, 27) ^ lane) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  }
  return hash;
}

std::string Checksum::hex() const { return fmt::format("{:016x}", digest()); }

}  // namespace quest
