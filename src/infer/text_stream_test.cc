// Whole characters out of bytes that arrive one by one.
#include "infer/text_stream.h"

#include <gtest/gtest.h>

#include "data/utf8.h"

namespace quest {
namespace {

// "a", pound sign, euro sign, a grinning face, "z".
const std::string kText = "a\xC2\xA3\xE2\x82\xAC\xF0\x9F\x98\x80z";

// Pushes single bytes; checks after each that what came out is well-formed.
std::string by_bytes(const std::string& bytes) {
  TextStream stream;
  std::string out;
  for (const char byte : bytes) {
    const std::string piece = stream.push(std::string_view(&byte, 1));
    EXPECT_EQ(check_utf8(piece).valid_bytes, piece.size());
    out += piece;
  }
  return out + stream.finish();
}

TEST(TextStream, ValidTextPassesUnchangedHoweverItIsCut) {
  EXPECT_EQ(by_bytes(kText), kText);
  for (std::size_t cut = 0; cut <= kText.size(); ++cut) {
    TextStream stream;
    const std::string first = stream.push(kText.substr(0, cut));
    EXPECT_EQ(check_utf8(first).valid_bytes, first.size());
    const std::string second = stream.push(kText.substr(cut));
    EXPECT_EQ(first + second, kText);
    EXPECT_EQ(stream.finish(), "");
  }
}

TEST(TextStream, ACharacterComesOutWithItsLastByteAndNotBefore) {
  TextStream stream;
  EXPECT_EQ(stream.push("\xE2"), "");
  EXPECT_EQ(stream.push("\x82"), "");
  EXPECT_EQ(stream.push("\xAC"), "\xE2\x82\xAC");
}

TEST(TextStream, ImpossibleBytesBecomeReplacementCharacters) {
  const std::string mark = "\xEF\xBF\xBD";
  EXPECT_EQ(by_bytes("a\xFF"
                     "b"),
            "a" + mark + "b");
  EXPECT_EQ(by_bytes("\x80"), mark);
  EXPECT_EQ(by_bytes("\xE2"
                     "b"),
            mark + "b");                         // a start whose rest does not come
  EXPECT_EQ(by_bytes("\xE2\x82"), mark);         // a start at the end
  EXPECT_EQ(by_bytes("\xC0\xAF"), mark + mark);  // an overlong form
}

}  // namespace
}  // namespace quest
