// Stop texts in a stream: nothing of them, and nothing after them, comes out.
#include "infer/stop_texts.h"

#include <gtest/gtest.h>

namespace quest {
namespace {

std::string by_pieces(StopTexts& stops, const std::string& text, std::size_t size) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += size) out += stops.push(text.substr(i, size));
  return out + stops.finish();
}

TEST(StopTexts, TheTextEndsBeforeTheFirstHoweverItIsCut) {
  for (std::size_t size = 1; size <= 12; ++size) {
    StopTexts stops({"END", "ENOUGH", "xyz"});
    EXPECT_EQ(by_pieces(stops, "one EN two ENENOUGH xyz END", size), "one EN two EN") << size;
    EXPECT_TRUE(stops.found());
  }
}

TEST(StopTexts, TextWithoutOnePassesWhole) {
  for (std::size_t size = 1; size <= 5; ++size) {
    StopTexts stops({"aab", ""});
    EXPECT_EQ(by_pieces(stops, "aaaaacaa", size), "aaaaacaa");
    EXPECT_FALSE(stops.found());
  }
}

TEST(StopTexts, OnlyWhatMayBecomeOneIsHeld) {
  StopTexts stops({"stop"});
  EXPECT_EQ(stops.push("a st"), "a ");
  EXPECT_EQ(stops.push("one s"), "stone ");
  EXPECT_EQ(stops.push("top and on"), "");
  EXPECT_TRUE(stops.found());
  EXPECT_EQ(stops.push("more"), "");
}

}  // namespace
}  // namespace quest
