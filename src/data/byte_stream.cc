// Plain files through stdio, .zst files through zstd's streaming decoder.
#include "data/byte_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace quest {
namespace {

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// Opening a pipe waits for its other end, unless O_NONBLOCK; regular files do not heed the flag.
std::FILE* open_regular(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail("cannot open {}: {}", path, std::strerror(errno));
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    fail("{} is not a regular file", path);
  }
  std::FILE* file = ::fdopen(descriptor, "rb");
  if (file == nullptr) ::close(descriptor);
  return file;
}

class PlainStream : public ByteStream {
 public:
  explicit PlainStream(const std::filesystem::path& path)
      : path_(path.string()), file_(open_regular(path_)) {
    if (!file_) fail("cannot open {}: {}", path_, std::strerror(errno));
  }

  std::size_t read(char* out, std::size_t capacity) override {
    const std::size_t count = std::fread(out, 1, capacity, file_.get());
    if (count == 0 && std::ferror(file_.get())) {
      fail("cannot read {}: {}", path_, std::strerror(errno));
    }
    position_ += count;
    return count;
  }
  std::uint64_t position() const override { return position_; }

 private:
  std::uint64_t position_ = 0;
  std::string path_;
  std::unique_ptr<std::FILE, FileCloser> file_;
};

struct DecoderCloser {
  void operator()(ZSTD_DCtx* decoder) const { ZSTD_freeDCtx(decoder); }
};

class ZstdStream : public ByteStream {
 public:
  explicit ZstdStream(const std::filesystem::path& path)
      : path_(path.string()),
        file_(path),
        decoder_(ZSTD_createDCtx()),
        compressed_(ZSTD_DStreamInSize()) {
    if (!decoder_) fail("out of memory for decompressing {}", path_);
  }

  std::size_t read(char* out, std::size_t capacity) override {
    ZSTD_outBuffer output{out, capacity, 0};
    while (output.pos == 0) {
      if (input_.pos == input_.size && !refill()) return 0;
      const std::size_t left = ZSTD_decompressStream(decoder_.get(), &output, &input_);
      if (ZSTD_isError(left)) {
        fail("{} is damaged or not a zstd file: {}", path_, ZSTD_getErrorName(left));
      }
      inside_frame_ = left != 0;
    }
    return output.pos;
  }
  std::uint64_t position() const override { return file_.position(); }

 private:
  /// Reads more compressed bytes; false at the end of the file, which must be the end of a frame.
  bool refill() {
    input_ = {compressed_.data(), file_.read(compressed_.data(), compressed_.size()), 0};
    if (input_.size > 0) return true;
    if (inside_frame_) fail("{} is cut short: the zstd data ends in the middle of a frame", path_);
    return false;
  }

  std::string path_;
  PlainStream file_;
  std::unique_ptr<ZSTD_DCtx, DecoderCloser> decoder_;
  std::vector<char> compressed_;
  ZSTD_inBuffer input_{nullptr, 0, 0};
  bool inside_frame_ = true;  ///< A file without any frame is cut short too.
};

}  // namespace

std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path) {
  if (path.extension() == ".zst") return std::make_unique<ZstdStream>(path);
  return std::make_unique<PlainStream>(path);
}

}  // namespace quest
