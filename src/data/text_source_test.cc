// Tests of reading text: documents, chunks, compression, and each kind of bad input.
#include "data/text_source.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zstd.h>

#include <nlohmann/json.hpp>

#include "data/test_folder.h"
#include "data/utf8.h"

namespace quest {
namespace {

std::string compressed(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

/// All documents, chunks joined.
std::vector<std::string> documents(const std::vector<std::string>& patterns) {
  std::vector<std::string> result;
  TextSource source(patterns);
  for (TextChunk chunk; source.next(chunk);) {
    EXPECT_FALSE(chunk.text.empty());
    EXPECT_LE(chunk.text.size(), TextSource::kMaxChunkBytes);
    if (chunk.starts_document) result.emplace_back();
    result.back() += chunk.text;
  }
  return result;
}

std::vector<std::string> chunks(const std::string& path) {
  std::vector<std::string> result;
  TextSource source({path});
  for (TextChunk chunk; source.next(chunk);) result.push_back(chunk.text);
  return result;
}

/// `bytes` bytes of lines of different lengths.
std::string long_text(std::size_t bytes) {
  std::string text;
  for (int i = 0; text.size() < bytes; ++i) {
    text += "line " + std::to_string(i) + std::string(static_cast<std::size_t>(i % 61), 'x') + "\n";
  }
  text.resize(bytes);
  return text;
}

using Documents = std::vector<std::string>;

TEST(TextSource, EachFormatGivesItsDocuments) {
  const TestFolder folder;
  const std::string text = "One.\n\n  Two \xC3\xA9.\r\n\tend";
  const std::string lines =
      "{\"text\": \"first\\nline\", \"n\": 1}\n\n{\"n\":[2],\"text\":\"\\u00e9 second\"}\r\n"
      "{\"text\":\"\"}\n{\"text\":\"third, no newline\"}";
  const Documents line_documents = {"first\nline", "\xC3\xA9 second", "third, no newline"};
  EXPECT_EQ(documents({folder.write("a.txt", text)}), Documents{text});
  EXPECT_EQ(documents({folder.write("b.txt.zst", compressed(text))}), Documents{text});
  EXPECT_EQ(documents({folder.write("c.jsonl", lines)}), line_documents);
  EXPECT_EQ(documents({folder.write("d.jsonl.zst", compressed(lines))}), line_documents);
  EXPECT_EQ(documents({folder.path("*.txt"), folder.path("c.*")}).size(), 4u);
}

TEST(TextSource, FolderGivesItsTextFilesInOrder) {
  const TestFolder folder;
  folder.write("b.txt", "bee");
  folder.write("a.txt", "ay");
  folder.write("notes.md", "not text data");
  EXPECT_EQ(documents({folder.path("")}), (Documents{"ay", "bee"}));
}

TEST(TextSource, EmptyFilesAreLeftOut) {
  const TestFolder folder;
  folder.write("a.txt", "");
  folder.write("b.txt", "text");
  EXPECT_EQ(documents({folder.path("*.txt")}), Documents{"text"});
}

TEST(TextSource, ConcatenatedZstdFramesAreOneText) {
  const TestFolder folder;
  const auto path = folder.write("a.txt.zst", compressed("one ") + compressed("two"));
  EXPECT_EQ(documents({path}), Documents{"one two"});
}

TEST(TextSource, LongDocumentsComeInChunksCutAtNewlines) {
  const TestFolder folder;
  const std::string text = long_text(3 * TextSource::kMaxChunkBytes + 12345);
  const auto parts = chunks(folder.write("a.txt", text));
  ASSERT_GE(parts.size(), 4u);
  std::string joined;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    joined += parts[i];
    EXPECT_TRUE(i + 1 == parts.size() || parts[i].back() == '\n');
  }
  EXPECT_EQ(joined, text);
}

TEST(TextSource, ChunksDependOnTheTextAloneNotOnTheFormat) {
  const TestFolder folder;
  const std::string text = long_text(2 * TextSource::kMaxChunkBytes);
  const auto plain = chunks(folder.write("a.txt", text));
  EXPECT_EQ(chunks(folder.write("b.txt.zst", compressed(text))), plain);
  const std::string line = nlohmann::json{{"text", text}}.dump() + "\n";
  EXPECT_EQ(chunks(folder.write("c.jsonl", line)), plain);
}

TEST(TextSource, WithoutNewlinesChunksEndBeforeASpaceElseBetweenCharacters) {
  const TestFolder folder;
  std::string words;
  while (words.size() < 2 * TextSource::kMaxChunkBytes) words += "word ";
  const auto parts = chunks(folder.write("a.txt", words));
  EXPECT_EQ(parts[1].front(), ' ');
  for (std::size_t shift = 0; shift < 4; ++shift) {
    std::string accents(shift, 'x');
    while (accents.size() < TextSource::kMaxChunkBytes + 50) accents += "\xE2\x82\xAC";
    const auto pieces = chunks(folder.write("b.txt", accents));
    ASSERT_EQ(pieces.size(), 2u);
    EXPECT_EQ(pieces[0] + pieces[1], accents);
    for (const auto& piece : pieces) EXPECT_EQ(check_utf8(piece).valid_bytes, piece.size());
  }
}

TEST(TextSource, MissingAndUnknownFilesAreRefused) {
  const TestFolder folder;
  expect_mentions(error_of([&] { documents({folder.path("none.txt")}); }), {"none.txt"});
  expect_mentions(error_of([&] { documents({folder.path("*.txt")}); }), {"*.txt"});
  const auto odd = folder.write("data.csv", "x");
  expect_mentions(error_of([&] { documents({odd}); }), {"data.csv", ".jsonl"});
  expect_mentions(error_of([&] { documents({folder.path("")}); }), {"holds no .txt"});
}

TEST(TextSource, EmptyDataIsRefused) {
  const TestFolder folder;
  folder.write("a.txt", "");
  folder.write("b.jsonl", "{\"text\":\"\"}\n\n");
  expect_mentions(error_of([&] { documents({folder.path("*")}); }), {"the data is empty"});
}

TEST(TextSource, InvalidUtf8IsRefusedWithFileAndOffset) {
  const TestFolder folder;
  const auto early = folder.write("a.txt",
                                  "ab\xFF"
                                  "cd");
  expect_mentions(error_of([&] { documents({early}); }), {"a.txt", "at byte 2", "0xFF"});
  const std::string text = long_text(TextSource::kMaxChunkBytes + 500);
  const auto late = folder.write("b.txt", text + "\xC3(");
  expect_mentions(error_of([&] { documents({late}); }),
                  {"b.txt", "at byte " + std::to_string(text.size())});
  const auto cut = folder.write("c.txt", "abc\xE2\x82");
  expect_mentions(error_of([&] { documents({cut}); }), {"at byte 3", "cut short"});
  const auto line = folder.write("d.jsonl", "{\"text\":\"a\"}\n{\"text\":\"\xFF\"}\n");
  expect_mentions(error_of([&] { documents({line}); }), {"d.jsonl", "at byte 22"});
}

TEST(TextSource, NulIsRefused) {
  const TestFolder folder;
  const auto text = folder.write("a.txt", std::string("ab\0c", 4));
  expect_mentions(error_of([&] { documents({text}); }), {"a.txt", "NUL", "byte 2"});
  const auto line = folder.write("b.jsonl", "{\"text\":\"x\"}\n{\"text\":\"a\\u0000b\"}\n");
  expect_mentions(error_of([&] { documents({line}); }), {"b.jsonl", "line 2", "NUL"});
}

TEST(TextSource, ZstdCutAnywhereIsRefused) {
  const TestFolder folder;
  const std::string whole = compressed(long_text(4000));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto path = folder.write("a.txt.zst", whole.substr(0, size));
    expect_mentions(error_of([&] { documents({path}); }), {"a.txt.zst", "cut short"});
  }
}

TEST(TextSource, WhatIsNotZstdIsRefused) {
  const TestFolder folder;
  const auto path = folder.write("a.txt.zst", "this is plain text, whatever its name says");
  expect_mentions(error_of([&] { documents({path}); }), {"a.txt.zst", "not a zstd file"});
}

TEST(TextSource, APipeIsRefusedInsteadOfWaitedFor) {
  const TestFolder folder;
  for (const char* name : {"pipe.txt", "pipe.jsonl", "pipe.txt.zst"}) {
    ASSERT_EQ(::mkfifo(folder.path(name).c_str(), 0600), 0);
    expect_mentions(error_of([&] { chunks(folder.path(name)); }), {name, "not a regular file"});
  }
}

TEST(TextSource, BadJsonLinesAreRefusedWithTheirNumber) {
  const TestFolder folder;
  const std::string good = "{\"text\":\"fine\"}\n\n";
  for (const char* bad :
       {"{\"text\":\"open", "not json", "{\"text\":\"a\"} {}", "{\"text\":\"\\ud800\"}"}) {
    const auto path = folder.write("a.jsonl", good + bad + "\n");
    expect_mentions(error_of([&] { documents({path}); }), {"a.jsonl", "line 3", "JSON"});
  }
  for (const char* bad :
       {"{}", "{\"Text\":\"a\"}", "{\"text\":5}", "[\"text\"]", "\"text\"", "null"}) {
    const auto path = folder.write("a.jsonl", good + bad + "\n");
    expect_mentions(error_of([&] { documents({path}); }), {"a.jsonl", "line 3", "\"text\""});
  }
}

TEST(Utf8, TheTableOfWellFormedSequences) {
  for (const char* good : {"", "a", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                           "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(check_utf8(good).valid_bytes, std::string_view(good).size());
  }
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3("}) {
    const std::string text = std::string("123456789") + bad;
    EXPECT_EQ(check_utf8(text).valid_bytes, 9u);
    EXPECT_FALSE(check_utf8(text).cut);
  }
  for (const char* cut : {"\xC3", "\xE2\x82", "\xF0\x9F\x98"}) EXPECT_TRUE(check_utf8(cut).cut);
}

}  // namespace
}  // namespace quest
