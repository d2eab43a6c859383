// Turns of a conversation: what is new to the session, and what of an answer stays in it.
#include "infer/chat.h"

#include <algorithm>

#include "core/error.h"
#include "infer/stop_texts.h"
#include "infer/text_stream.h"

namespace quest {
namespace {

// An answer's share of the context that dropping old turns makes room for.
constexpr std::int64_t kAnswerShare = 4;

}  // namespace

Chat::Chat(Session& session, const Tokenizer& tokenizer, const ChatOptions& options)
    : session_(session), tokenizer_(tokenizer), options_(options), template_(options.form) {}

void Chat::reset() {
  turns_.clear();
  unread_.clear();
  session_.truncate(0);
}

std::vector<std::int32_t> Chat::encode(const std::vector<ChatPiece>& pieces) const {
  std::vector<std::int32_t> tokens;
  for (const ChatPiece& piece : pieces) {
    if (piece.end_of_text) tokens.push_back(tokenizer_.end_of_text_id());
    const auto text = tokenizer_.encode(piece.text);
    tokens.insert(tokens.end(), text.begin(), text.end());
  }
  return tokens;
}

std::vector<std::int32_t> Chat::whole_conversation(const std::string& message) const {
  std::vector<ChatPiece> pieces =
      template_.first_turn(options_.system, turns_.empty() ? message : turns_.front().user);
  for (std::size_t i = 0; i < turns_.size(); ++i) {
    pieces.push_back({turns_[i].assistant});
    const bool last = i + 1 == turns_.size();
    for (ChatPiece& piece : template_.next_turn(last ? message : turns_[i + 1].user)) {
      pieces.push_back(std::move(piece));
    }
  }
  return encode(pieces);
}

// The tokens that the session does not hold yet; makes room for them where that is allowed.
std::vector<std::int32_t> Chat::tokens_for(const std::string& message, ChatAnswer& answer) {
  const std::int64_t capacity = session_.capacity();
  std::vector<std::int32_t> tokens;
  if (session_.length() == 0) {
    tokens = whole_conversation(message);
  } else {
    std::vector<ChatPiece> pieces{{unread_}};
    for (ChatPiece& piece : template_.next_turn(message)) pieces.push_back(std::move(piece));
    tokens = encode(pieces);
  }
  const auto size = [&tokens] { return static_cast<std::int64_t>(tokens.size()); };
  const std::int64_t reserve = std::min(options_.max_tokens, capacity / kAnswerShare);
  if (options_.drop_oldest && session_.length() + size() + reserve > capacity) {
    const std::size_t turns_before = turns_.size();
    while (!turns_.empty()) {
      turns_.erase(turns_.begin());
      tokens = whole_conversation(message);
      if (size() + reserve <= capacity) break;
    }
    if (size() <= capacity) {
      answer.dropped = static_cast<std::int64_t>(turns_before - turns_.size());
      session_.truncate(0);
      return tokens;
    }
  } else if (session_.length() + size() <= capacity) {
    return tokens;
  }
  if (turns_.empty() || options_.drop_oldest) {
    fail(
        "the message has {} tokens with what goes around it, but the context holds {}; write a "
        "shorter one, or start with a larger --context",
        size(), capacity);
  }
  fail(
      "the context is full: {} of its {} tokens are in use and the message needs {}; /reset starts "
      "a new conversation, --drop-oldest forgets the oldest turns, --context makes it larger",
      session_.length(), capacity, size());
}

// Keeps those tokens of the answer in the session that its text `text`, which may end before them,
// is made of; what they do not cover is read with the next turn.
void Chat::remember(const std::string& message, const std::string& text,
                    const std::vector<std::int32_t>& tokens, std::int64_t begin) {
  std::size_t covered = 0;
  std::int64_t kept = begin;
  for (const std::int32_t token : tokens) {
    const std::size_t bytes = tokenizer_.token_text(token).size();
    if (kept == session_.length() || covered + bytes > text.size()) break;
    covered += bytes;
    ++kept;
  }
  session_.truncate(kept);
  unread_ = text.substr(covered);
  turns_.push_back({message, text});
}

ChatAnswer Chat::answer(const std::string& message,
                        const std::function<void(const std::string&)>& on_text,
                        const std::function<bool()>& interrupted) {
  ChatAnswer answer{};
  const std::int64_t length = session_.length();
  std::vector<Turn> turns = turns_;
  try {
    complete(answer, message, on_text, interrupted);
  } catch (...) {
    turns_ = std::move(turns);
    // What the session held before is gone where turns were dropped; the next turn runs it again.
    session_.truncate(answer.dropped > 0 ? 0 : length);
    throw;
  }
  return answer;
}

void Chat::complete(ChatAnswer& answer, const std::string& message,
                    const std::function<void(const std::string&)>& on_text,
                    const std::function<bool()>& interrupted) {
  const std::vector<std::int32_t> tokens = tokens_for(message, answer);
  answer.prefilled = static_cast<std::int64_t>(tokens.size());
  std::vector<std::string> stop = template_.stop_texts();
  stop.insert(stop.end(), options_.stop.begin(), options_.stop.end());
  StopTexts stops(stop);
  TextStream stream;
  std::string text;
  const auto pass_on = [&](const std::string& bytes) {
    text += bytes;
    if (const std::string shown = stream.push(bytes); !shown.empty()) on_text(shown);
  };
  GenerateOptions options{.max_tokens = options_.max_tokens, .sampling = options_.sampling};
  options.end_token = tokenizer_.end_of_text_id();
  options.vocab = tokenizer_.vocab_size();
  options.has_ended = [&] { return stops.found() || (interrupted && interrupted()); };
  const std::int64_t begin = session_.length() + answer.prefilled;
  const Generation result = generate(session_, tokens, options, [&](std::int32_t token) {
    pass_on(stops.push(tokenizer_.token_text(token)));
  });
  pass_on(stops.finish());
  if (const std::string rest = stream.finish(); !rest.empty()) on_text(rest);
  remember(message, text, result.tokens, begin);
  answer.stop_reason = result.stop_reason;
  answer.tokens_per_second = result.tokens_per_second();
}

}  // namespace quest
