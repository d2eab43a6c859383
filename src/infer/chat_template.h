// ChatTemplate: how the turns of a conversation are written for a model.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

/// The known forms. Each is recognised by its markers in a tokenizer's `chat_template`; the Jinja
/// program around them is not run.
enum class ChatForm : std::uint8_t { kPlain, kChatMl, kLlama2, kLlama3, kZephyr };

/// "plain", "chatml", "llama2", "llama3", "zephyr".
std::string_view name(ChatForm form);
/// Inverse of `name`; none for any other text.
std::optional<ChatForm> chat_form_named(std::string_view name);
std::vector<std::string> chat_form_names();

/// The form whose markers a Jinja template has; none when they are of no known form.
std::optional<ChatForm> recognise_chat_form(std::string_view jinja);

/// The `chat_template` of a model folder's tokenizer_config.json (the default one, where it has
/// several); none where it has none. Throws Error when the file is not JSON.
std::optional<std::string> read_chat_template(const std::filesystem::path& folder);

/// Puts a `chat_template` into a folder's tokenizer_config.json, which exists.
void write_chat_template(const std::filesystem::path& folder, const std::string& jinja);

/// A piece of a rendered conversation: text, or the token that ends a document.
struct ChatPiece {
  std::string text;
  bool end_of_text = false;
};

/// What is put around the texts of a conversation in one form.
class ChatTemplate {
 public:
  explicit ChatTemplate(ChatForm form) : form_(form) {}

  /// From the start of the conversation to where the model's first answer begins. `system` may be
  /// empty.
  std::vector<ChatPiece> first_turn(const std::string& system, const std::string& user) const;
  /// From the end of an answer to where the next one begins.
  std::vector<ChatPiece> next_turn(const std::string& user) const;
  /// Texts that end an answer, beside the end-of-text token.
  std::vector<std::string> stop_texts() const;

 private:
  ChatForm form_;
};

}  // namespace quest
