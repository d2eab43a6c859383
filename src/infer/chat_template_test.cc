// Chat forms: what is recognised, and what is written.
#include "infer/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "infer/tiny_model_for_test.h"

namespace quest {
namespace {

std::string written(const std::vector<ChatPiece>& pieces) {
  std::string text;
  for (const ChatPiece& piece : pieces) text += (piece.end_of_text ? "</s>" : "") + piece.text;
  return text;
}

TEST(ChatTemplate, IsRecognisedByItsMarkers) {
  EXPECT_EQ(recognise_chat_form("{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n'}}"),
            ChatForm::kChatMl);
  EXPECT_EQ(recognise_chat_form("{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"),
            ChatForm::kLlama2);
  EXPECT_EQ(recognise_chat_form("{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>' }}"),
            ChatForm::kLlama3);
  EXPECT_EQ(recognise_chat_form("{{ '<|user|>\\n' + m['content'] }}{{ '<|assistant|>' }}"),
            ChatForm::kZephyr);
  EXPECT_EQ(recognise_chat_form("{{ 'Human: ' + m['content'] }}"), std::nullopt);
  for (const std::string& known : chat_form_names()) {
    ASSERT_TRUE(chat_form_named(known));
    EXPECT_EQ(name(*chat_form_named(known)), known);
  }
  EXPECT_FALSE(chat_form_named("alpaca"));
}

TEST(ChatTemplate, WritesTurnsInEachForm) {
  const ChatTemplate chatml(ChatForm::kChatMl), llama2(ChatForm::kLlama2),
      llama3(ChatForm::kLlama3), zephyr(ChatForm::kZephyr), plain(ChatForm::kPlain);
  EXPECT_EQ(written(chatml.first_turn("Be kind.", "Hi")),
            "</s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(written(chatml.next_turn("More")),
            "<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(written(llama2.first_turn("Be kind.", "Hi")),
            "</s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST]");
  EXPECT_EQ(written(llama2.next_turn("More")), "</s>[INST] More [/INST]");
  EXPECT_EQ(written(llama3.first_turn("", "Hi")),
            "</s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(written(llama3.next_turn("More")),
            "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nMore<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(written(zephyr.first_turn("Be kind.", "Hi")),
            "</s><|system|>\nBe kind.</s>\n<|user|>\nHi</s>\n<|assistant|>\n");
  EXPECT_EQ(written(zephyr.next_turn("More")), "</s>\n<|user|>\nMore</s>\n<|assistant|>\n");
  EXPECT_EQ(written(plain.first_turn("Be kind.", "Hi")), "</s>Be kind.\n\nUser: Hi\nAssistant:");
  EXPECT_EQ(written(plain.next_turn("More")), "\nUser: More\nAssistant:");
}

TEST(ChatTemplate, IsReadFromTheTokenizersConfig) {
  const TemporaryFolder folder;
  EXPECT_FALSE(read_chat_template(folder.path()));
  const auto put = [&](const std::string& text) {
    std::ofstream(folder.path() / "tokenizer_config.json") << text;
  };
  put("{}");
  EXPECT_FALSE(read_chat_template(folder.path()));
  put(R"({"chat_template": "one"})");
  EXPECT_EQ(read_chat_template(folder.path()), "one");
  put(R"({"chat_template": [{"name": "tools", "template": "a"},
                            {"name": "default", "template": "b"}]})");
  EXPECT_EQ(read_chat_template(folder.path()), "b");
  put(R"({"chat_template": [3, {"name": 3, "template": "a"}, {"template": "a"},
                            {"name": "default", "template": "b"}]})");
  EXPECT_EQ(read_chat_template(folder.path()), "b");
  for (const char* wrong : {"3", "null", "[]", "{}"}) {
    put(R"({"chat_template": [{"name": "default", "template": )" + std::string(wrong) + "}]}");
    EXPECT_THROW(read_chat_template(folder.path()), Error) << wrong;
  }
  put(R"({"chat_template": [{"name": "default"}]})");
  EXPECT_THROW(read_chat_template(folder.path()), Error);
  put(R"({"chat_template": 3})");
  EXPECT_FALSE(read_chat_template(folder.path()));
  put("{");
  EXPECT_THROW(read_chat_template(folder.path()), Error);
}

}  // namespace
}  // namespace quest
