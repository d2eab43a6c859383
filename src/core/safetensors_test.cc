// Tests of the safetensors container: what is written is read, and damage is refused.
#include "core/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "core/error.h"

namespace quest {
namespace {

class SafetensorsTest : public ::testing::Test {
 protected:
  SafetensorsTest()
      : path_(std::filesystem::path(::testing::TempDir()) /
              ("quest_" + std::to_string(::getpid()) + ".safetensors")) {
    write_safetensors(path_,
                      {{"floats", view_of(floats_, {2, 3})}, {"codes", view_of(codes_, {5})}},
                      {{"note", "hello"}});
    bytes_ = read_file(path_);
  }
  ~SafetensorsTest() override { std::filesystem::remove(path_); }

  void overwrite(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }

  float floats_[6] = {1, 2, 3, 4, 5, 6};
  std::int8_t codes_[5] = {-8, -1, 0, 1, 7};
  std::filesystem::path path_;
  std::string bytes_;
};

TEST_F(SafetensorsTest, RoundTrip) {
  const SafetensorsFile file(path_);
  file.verify(true);
  const Tensor floats = file.tensor("floats", DType::kF32, {2, 3});
  EXPECT_EQ(std::memcmp(floats.data, floats_, sizeof floats_), 0);
  const Tensor codes = file.tensor("codes", DType::kI8, {5});
  EXPECT_EQ(std::memcmp(codes.data, codes_, sizeof codes_), 0);
  EXPECT_EQ(file.metadata().at("note"), "hello");
  EXPECT_THROW(file.tensor("absent"), Error);
  EXPECT_THROW(file.tensor("floats", DType::kF32, {3, 2}), Error);
}

TEST_F(SafetensorsTest, FileCutAnywhereIsRefused) {
  for (std::size_t size = 0; size < bytes_.size(); ++size) {
    overwrite(bytes_.substr(0, size));
    EXPECT_THROW(SafetensorsFile(path_).verify(true), Error) << "cut to " << size << " bytes";
  }
}

TEST_F(SafetensorsTest, AnyFlippedBitIsRefused) {
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes_;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      overwrite(flipped);
      EXPECT_THROW(SafetensorsFile(path_).verify(true), Error) << "byte " << i << " bit " << bit;
    }
  }
}

// What the hostile headers below have in common with this one is no reason to refuse them.
TEST_F(SafetensorsTest, ForeignHeadersAreRead) {
  for (const char* header : {R"({"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},)"
                             R"("b":{"dtype":"I8","shape":[2],"data_offsets":[2,4]}})",
                             R"({"b":{"dtype":"I8","shape":[2],"data_offsets":[2,4]},)"
                             R"("empty":{"dtype":"I8","shape":[0],"data_offsets":[1,1]},)"
                             R"("a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}})",
                             R"({})"}) {
    const std::uint64_t size = std::strlen(header);
    std::string bytes(reinterpret_cast<const char*>(&size), 8);
    overwrite(bytes + header + "abcd");
    EXPECT_NO_THROW(SafetensorsFile{path_}.verify(false)) << header;
  }
}

TEST_F(SafetensorsTest, HostileHeadersAreRefused) {
  for (const char* header :
       {R"({"a":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,0]}})",
        R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}})",
        R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999]}})",
        R"({"a":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F13","shape":[1],"data_offsets":[0,4]}})", R"({"a":3})", R"([])", R"({)",
        R"({"__metadata__":{"a":1}})",
        R"({"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},)"
        R"("a":{"dtype":"I8","shape":[2],"data_offsets":[2,4]}})",
        R"({"a":{"dtype":"I8","dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
        R"({"a":{"dtype":"I8","shape":[4],"shape":[2],"data_offsets":[0,2]}})",
        R"({"__metadata__":{"a":"1","a":"2"}})",
        R"({"a":{"dtype":"I8","shape":[3],"data_offsets":[0,3]},)"
        R"("b":{"dtype":"I8","shape":[2],"data_offsets":[2,4]}})"}) {
    const std::uint64_t size = std::strlen(header);
    std::string bytes(reinterpret_cast<const char*>(&size), 8);
    overwrite(bytes + header + "abcd");
    EXPECT_THROW(SafetensorsFile{path_}, Error) << header;
  }
}

}  // namespace
}  // namespace quest
