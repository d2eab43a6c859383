// Tests of the text helpers.
#include "apps/text.h"

#include <gtest/gtest.h>

namespace quest::app {
namespace {

TEST(Text, EditDistanceCountsEachSlipOnce) {
  EXPECT_EQ(edit_distance("train", "train"), 0u);
  EXPECT_EQ(edit_distance("trian", "train"), 1u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(Text, NearestTextPicksTheLikeliestWord) {
  EXPECT_EQ(nearest_text("--stesp", {"--lr", "--steps", "--seed"}), "--steps");
  EXPECT_EQ(nearest_text("x", {}), "");
}

TEST(Text, ANameIsNearByASlipOfAThirdAtMostOrByAPart) {
  EXPECT_EQ(nearest_text("abcdefghi", {"abcdefxyz"}), "abcdefxyz");
  EXPECT_EQ(nearest_text("abcdefghi", {"abcdewxyz"}), "");
  EXPECT_EQ(nearest_text("--learning-rate", {"--lr", "--val-data", "--grad-accum"}), "");
  EXPECT_EQ(nearest_text("--batch", {"--data", "--batch-size"}), "--batch-size");
  EXPECT_EQ(nearest_text("--max_steps", {"--mask", "--steps"}), "--steps");
  EXPECT_EQ(nearest_text("gen", {"eval", "generate"}), "generate");
  EXPECT_EQ(nearest_text("--a-b", {"--c-b-long-name"}), "") << "a letter is no word";
}

TEST(Text, ASlipIsNearerThanACommonPart) {
  EXPECT_EQ(nearest_text("kv-bitz", {"kv", "kv-bits"}), "kv-bits");
  EXPECT_EQ(nearest_text("val-datas", {"val", "val-data"}), "val-data");
  EXPECT_EQ(nearest_text("abc-defghi", {"abc", "xbc-defzzi"}), "xbc-defzzi");
}

TEST(Text, AnAbbreviationIsNearerThanASlipOfTwo) {
  EXPECT_EQ(nearest_text("--sched", {"--scheme", "--schedule"}), "--schedule");
}

TEST(Text, AlternativesAreListedAsInASentence) {
  EXPECT_EQ(alternatives({"a", "b", "c"}), "a, b or c");
  EXPECT_EQ(alternatives({"a"}), "a");
}

TEST(Text, SplitKeepsEmptyPartsButNotAnEmptyText) {
  EXPECT_EQ(split("a,,b,", ','), (std::vector<std::string>{"a", "", "b", ""}));
  EXPECT_TRUE(split("", ',').empty());
}

TEST(Text, AWholeNumberIsReadOnlyIfAllOfItIsOne) {
  EXPECT_EQ(parse_whole("-12"), -12);
  EXPECT_EQ(parse_whole("3e9"), 3000000000);
  EXPECT_EQ(parse_whole("9223372036854775807"), 9223372036854775807);
  for (const char* text : {"", " 1", "1 ", "1.5", "9223372036854775808", "1e300", "nan", "0x10"}) {
    EXPECT_FALSE(parse_whole(text)) << text;
  }
}

TEST(Text, NumbersAreGroupedByThree) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(-1234567), "-1,234,567");
  EXPECT_EQ(with_commas(-123), "-123");
}

TEST(Text, DurationsUseTheTwoLargestUnits) {
  EXPECT_EQ(duration_text(7.6), "8 s");
  EXPECT_EQ(duration_text(185), "3 min 05 s");
  EXPECT_EQ(duration_text(2 * 3600 + 14 * 60), "2 h 14 min");
  EXPECT_EQ(duration_text(5 * 86400 + 3 * 3600), "5 d 03 h");
  EXPECT_EQ(duration_text(1.0 / 0.0), "unknown");
}

TEST(Text, SizesHaveThreeDigits) {
  EXPECT_EQ(size_text(812), "812 B");
  EXPECT_EQ(size_text(3500), "3.42 KiB");
  EXPECT_EQ(size_text(1.5 * 1024 * 1024 * 1024), "1.50 GiB");
}

TEST(Text, WrappedLinesStayInsideTheWidth) {
  EXPECT_EQ(wrap("one two three", 7), (std::vector<std::string>{"one two", "three"}));
  EXPECT_EQ(wrap("unbreakable x", 4), (std::vector<std::string>{"unbreakable", "x"}));
}

}  // namespace
}  // namespace quest::app
