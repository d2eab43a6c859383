// New folders: what stood there before is never touched.
#include "core/new_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "core/file.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

class NewFolderTest : public ::testing::Test {
 protected:
  NewFolderTest()
      : root_(fs::path(::testing::TempDir()) / ("quest_new_folder_" + std::to_string(getpid()))) {
    fs::create_directories(root_);
  }
  ~NewFolderTest() override { fs::remove_all(root_); }

  static void put(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }
  static std::string refusal(const fs::path& path) {
    try {
      NewFolder folder(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  fs::path root_;
};

TEST_F(NewFolderTest, AppearsWithWhatWasPutIntoItWhenItIsCommitted) {
  const fs::path deep = root_ / "not" / "there" / "yet";
  NewFolder folder(deep);
  put(folder.path() / "a", "text");
  EXPECT_FALSE(fs::exists(deep));
  folder.commit();
  EXPECT_EQ(read_file(deep / "a"), "text");
  EXPECT_FALSE(fs::exists(deep.string() + ".tmp"));
}

TEST_F(NewFolderTest, RefusesALinkBecauseAFolderCannotBeMovedOntoIt) {
  fs::create_directory(root_ / "empty");
  fs::create_directory_symlink("empty", root_ / "link");
  EXPECT_NE(refusal(root_ / "link").find("is a symbolic link"), std::string::npos);
  EXPECT_FALSE(fs::exists(root_ / "link.tmp"));
}

TEST_F(NewFolderTest, TakesThePlaceOfAnEmptyFolderHoweverItIsNamed) {
  fs::create_directory(root_ / "empty");
  NewFolder folder(root_ / "empty" / "");
  put(folder.path() / "a", "text");
  folder.commit();
  EXPECT_EQ(read_file(root_ / "empty" / "a"), "text");
}

TEST_F(NewFolderTest, NamesOfAFolderFromWithinAreRefused) {
  EXPECT_NE(refusal("..").find("name the folder itself"), std::string::npos);
  EXPECT_NE(refusal(".").find("name the folder itself"), std::string::npos);
}

TEST_F(NewFolderTest, LeavesNothingWithoutCommit) {
  {
    NewFolder folder(root_ / "a");
    put(folder.path() / "file", "text");
  }
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(NewFolderTest, ATemporaryFolderOfAnotherRunIsRefusedAndKept) {
  fs::create_directory(root_ / "a.tmp");
  put(root_ / "a.tmp" / "work", "a week of it");
  EXPECT_NE(refusal(root_ / "a").find("a.tmp exists"), std::string::npos);
  EXPECT_EQ(read_file(root_ / "a.tmp" / "work"), "a week of it");
}

TEST_F(NewFolderTest, WhatAppearsInItsPlaceMeanwhileIsKept) {
  for (const bool is_file : {false, true}) {
    const fs::path path = root_ / (is_file ? "file" : "folder");
    NewFolder folder(path);
    if (!is_file) fs::create_directory(path);
    const fs::path other = is_file ? path : path / "other";
    put(other, "another's");
    EXPECT_THROW(folder.commit(), Error);
    EXPECT_EQ(read_file(other), "another's");
  }
}

TEST_F(NewFolderTest, FoldersThatAreNotEmptyAndFilesAreRefused) {
  put(root_ / "file", "text");
  EXPECT_NE(refusal(root_).find("is not an empty folder"), std::string::npos);
  EXPECT_NE(refusal(root_ / "file").find("is not a folder"), std::string::npos);
  EXPECT_EQ(refusal("/dev/null"), "/dev/null is not a folder: choose another name");
  EXPECT_NE(refusal(root_ / "file" / "below").find("cannot make the folder"), std::string::npos);
}

}  // namespace
}  // namespace quest
