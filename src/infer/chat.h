// Chat: a conversation with a model, kept in a session.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "infer/chat_template.h"
#include "infer/generate.h"
#include "infer/session.h"

namespace quest {

struct ChatOptions {
  ChatForm form = ChatForm::kPlain;
  std::string system = {};      ///< instructions before the first message; may be empty
  std::int64_t max_tokens = 0;  ///< of an answer, at least 1
  SamplingOptions sampling = {};
  std::vector<std::string> stop = {};  ///< texts that end an answer, beside those of the form
  bool drop_oldest = false;            ///< forget the oldest turns when the context is full
};

/// What `Chat::answer` did.
struct ChatAnswer {
  StopReason stop_reason;
  std::int64_t prefilled = 0;  ///< tokens that were new to the model
  std::int64_t dropped = 0;    ///< turns that were forgotten before it
  double tokens_per_second = 0;
};

/// Keeps the turns of a conversation as text, and as keys and values: each turn runs its own tokens
/// only.
class Chat {
 public:
  /// `session` must be empty; it, the tokenizer and its model must outlive this.
  Chat(Session& session, const Tokenizer& tokenizer, const ChatOptions& options);

  /// Answers a message; `on_text` gets the answer in pieces of valid UTF-8, and may throw.
  /// `interrupted`, asked after each token, may end the answer. Throws Error when the message does
  /// not fit into what is left of the context. What throws leaves the conversation as it was.
  ChatAnswer answer(const std::string& message,
                    const std::function<void(const std::string&)>& on_text,
                    const std::function<bool()>& interrupted = nullptr);

  /// Begins a new conversation.
  void reset();

 private:
  struct Turn {
    std::string user;
    std::string assistant;
  };
  std::vector<std::int32_t> encode(const std::vector<ChatPiece>& pieces) const;
  std::vector<std::int32_t> whole_conversation(const std::string& message) const;
  std::vector<std::int32_t> tokens_for(const std::string& message, ChatAnswer& answer);
  void complete(ChatAnswer& answer, const std::string& message,
                const std::function<void(const std::string&)>& on_text,
                const std::function<bool()>& interrupted);
  void remember(const std::string& message, const std::string& text,
                const std::vector<std::int32_t>& tokens, std::int64_t begin);

  Session& session_;
  const Tokenizer& tokenizer_;
  ChatOptions options_;
  ChatTemplate template_;
  std::vector<Turn> turns_;
  std::string unread_;  // the end of the last answer, where the session does not hold its tokens
};

}  // namespace quest
