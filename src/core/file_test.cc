// Tests of atomic writes, globbing and the checksum.
#include "core/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.h"

namespace quest {
namespace {

class FileTest : public ::testing::Test {
 protected:
  FileTest()
      : folder_(std::filesystem::path(::testing::TempDir()) /
                ("quest_file_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~FileTest() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

TEST_F(FileTest, UncommittedWriteLeavesTheOldFileAndNoTemporary) {
  write_file(folder_ / "a", "old");
  { AtomicFile(folder_ / "a").write("new"); }
  EXPECT_EQ(read_file(folder_ / "a"), "old");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a.tmp"));
}

TEST_F(FileTest, ATemporaryFileOfAnotherIsKept) {
  write_file(folder_ / "a.tmp", "another's");
  { AtomicFile(folder_ / "a").write("dropped"); }
  write_file(folder_ / "a", "new");
  EXPECT_EQ(read_file(folder_ / "a"), "new");
  EXPECT_EQ(read_file(folder_ / "a.tmp"), "another's");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a.tmp-2"));
}

TEST_F(FileTest, AWriteThroughALinkReplacesTheFileAndKeepsTheLink) {
  std::filesystem::create_directory(folder_ / "inner");
  write_file(folder_ / "inner" / "a", "old");
  std::filesystem::create_symlink("inner/a", folder_ / "link");
  std::filesystem::create_symlink("link", folder_ / "link2");
  std::filesystem::create_symlink("inner/b", folder_ / "dangling");
  write_file(folder_ / "link2", "new");
  write_file(folder_ / "dangling", "made");
  EXPECT_EQ(read_file(folder_ / "inner" / "a"), "new");
  EXPECT_EQ(read_file(folder_ / "inner" / "b"), "made");
  EXPECT_TRUE(std::filesystem::is_symlink(folder_ / "link"));
  EXPECT_TRUE(std::filesystem::is_symlink(folder_ / "link2"));
  EXPECT_TRUE(std::filesystem::is_symlink(folder_ / "dangling"));
}

TEST_F(FileTest, WhatIsNoRegularFileIsNeitherReplacedNorRead) {
  std::filesystem::create_directory(folder_ / "inner");
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("pipe", folder_ / "link");
  std::filesystem::create_symlink("circle", folder_ / "circle");
  for (const char* name : {"inner", "pipe", "link", "circle"}) {
    EXPECT_THROW(AtomicFile{folder_ / name}, Error) << name;
    EXPECT_THROW(read_file(folder_ / name), Error) << name;  // and does not wait for a writer
    EXPECT_FALSE(std::filesystem::exists(folder_ / (std::string(name) + ".tmp"))) << name;
  }
  EXPECT_TRUE(std::filesystem::is_fifo(folder_ / "pipe"));
}

TEST_F(FileTest, WriteAtChangesOnlyThoseBytes) {
  AtomicFile file(folder_ / "a");
  file.write("0123456789");
  file.write_at(3, "xy", 2);
  file.write("!");
  file.commit();
  EXPECT_EQ(read_file(folder_ / "a"), "012xy56789!");
}

TEST_F(FileTest, GlobIsSortedAndRefusesNoMatch) {
  write_file(folder_ / "b.txt", "b");
  write_file(folder_ / "a.txt", "a");
  const auto paths = expand_glob((folder_ / "*.txt").string());
  ASSERT_EQ(paths.size(), 2u);
  EXPECT_EQ(paths[0].filename(), "a.txt");
  EXPECT_THROW(expand_glob((folder_ / "*.zip").string()), Error);
}

TEST_F(FileTest, MissingFileIsAnErrorThatNamesIt) {
  try {
    MappedFile missing(folder_ / "missing");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("missing"), std::string::npos);
  }
}

TEST(Checksum, DependsOnEveryByteAndNotOnTheChunks) {
  std::string data(1000, 'x');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7);
  Checksum whole;
  whole.update(data.data(), data.size());
  Checksum parts;
  for (std::size_t i = 0; i < data.size(); i += 37) {
    parts.update(data.data() + i, std::min<std::size_t>(37, data.size() - i));
  }
  EXPECT_EQ(whole.hex(), parts.hex());
  for (std::size_t i = 0; i < data.size(); ++i) {
    std::string flipped = data;
    flipped[i] = static_cast<char>(flipped[i] ^ 1);
    Checksum other;
    other.update(flipped.data(), flipped.size());
    ASSERT_NE(other.hex(), whole.hex()) << "byte " << i;
  }
}

}  // namespace
}  // namespace quest
