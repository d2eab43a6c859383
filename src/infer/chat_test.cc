// Conversations: the session holds what a fresh one would be given, and only what is new is run.
#include "infer/chat.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "core/error.h"
#include "infer/tiny_model_for_test.h"

namespace quest {
namespace {

class ChatTest : public ::testing::Test {
 protected:
  static ModelConfig config() {
    ModelConfig config = tiny_config(256);
    config.max_positions = 160;
    return config;
  }
  static ChatOptions options() {
    return {.max_tokens = 12, .sampling = {.temperature = 1.5, .seed = 2}};
  }
  ChatAnswer say(Chat& chat, const std::string& message) {
    text_.clear();
    return chat.answer(message, [this](const std::string& text) { text_ += text; });
  }
  void expect_error(Chat& chat, const std::string& message, const std::string& part) {
    try {
      say(chat, message);
      FAIL() << "accepted; expected: " << part;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }

  std::unique_ptr<Backend> backend_ = backend_for_test("cpu");
  std::unique_ptr<Model> model_ = tiny_model(*backend_, config(), "w4a4");
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer("bytes");
  std::string text_;
};

TEST_F(ChatTest, ATurnRunsItsOwnTokensOnly) {
  Session session(*model_);
  Chat chat(session, *tokenizer_, options());
  // The end-of-text token and "User: Hi\nAssistant:".
  EXPECT_EQ(say(chat, "Hi").prefilled, 20);
  const std::int64_t held = session.length();
  EXPECT_LE(held, 20 + 12);
  const ChatAnswer second = say(chat, "More");
  EXPECT_LE(second.prefilled,
            static_cast<std::int64_t>(std::string("\nUser: More\nAssistant:").size()) + 1);
  EXPECT_GT(session.length(), held);
}

// With byte tokens a text has one encoding, so the second answer must be that of a session that is
// given the whole conversation at once.
TEST_F(ChatTest, ASecondAnswerIsThatOfTheWholeConversation) {
  model_ = tiny_model(*backend_, config(), "none");
  // Only ASCII is ever the likeliest, so that answers can be written down again.
  model_->llama().for_each_parameter([&](const Parameter& parameter) {
    if (parameter.name != "lm_head.weight") return;
    backend_->zero(parameter.value.rows_slice(0, 1));
    backend_->zero(parameter.value.rows_slice(128, 256));
  });
  model_->prepare();
  ChatOptions own{.max_tokens = 12};
  Session first_session(*model_);
  Chat first_chat(first_session, *tokenizer_, own);
  say(first_chat, "Hi");
  ASSERT_EQ(text_.size(), 12u);
  // Ends by length, before a text inside the answer, and before one at its start.
  for (const std::string& stop : {std::string(), text_.substr(5, 2), text_.substr(0, 1)}) {
    own.stop = {stop};
    Session session(*model_);
    Chat chat(session, *tokenizer_, own);
    say(chat, "Hi");
    const std::string whole = "User: Hi\nAssistant:" + text_ + "\nUser: More\nAssistant:";
    say(chat, "More");

    std::vector<std::int32_t> prompt = tokenizer_->encode(whole);
    prompt.insert(prompt.begin(), tokenizer_->end_of_text_id());
    Session fresh(*model_);
    const auto wanted = generate(fresh, prompt, {.max_tokens = 12}, [](std::int32_t) {}).tokens;
    const std::string answer = tokenizer_->decode(wanted);
    EXPECT_EQ(text_, answer.substr(0, stop.empty() ? answer.size() : answer.find(stop)));
  }
}

TEST_F(ChatTest, ResetBeginsTheSameConversationAgain) {
  Session session(*model_);
  Chat chat(session, *tokenizer_, options());
  say(chat, "Hi");
  const std::string first = text_;
  say(chat, "More");
  chat.reset();
  EXPECT_EQ(session.length(), 0);
  say(chat, "Hi");
  EXPECT_EQ(text_, first);
}

TEST_F(ChatTest, AFullContextIsAnErrorThatForgetsNothing) {
  Session session(*model_);
  Chat chat(session, *tokenizer_, options());
  expect_error(chat, std::string(200, 'x'), "the message has 218 tokens with what goes around it");
  say(chat, "Hi");
  const std::int64_t held = session.length();
  expect_error(chat, std::string(130, 'x'), "the context is full");
  EXPECT_EQ(session.length(), held);
  say(chat, "More");
  EXPECT_GT(session.length(), held);
}

TEST_F(ChatTest, OldTurnsAreForgottenWhereThatIsAllowed) {
  ChatOptions own = options();
  own.drop_oldest = true;
  own.system = "Short.";
  Session session(*model_);
  Chat chat(session, *tokenizer_, own);
  std::int64_t dropped = 0;
  for (int turn = 0; turn < 12; ++turn) {
    const ChatAnswer answer = say(chat, "Message number " + std::to_string(turn));
    dropped += answer.dropped;
    EXPECT_LE(session.length(), session.capacity());
    EXPECT_NE(answer.stop_reason, StopReason::kContext) << "turn " << turn;
  }
  EXPECT_GT(dropped, 5);
  expect_error(chat, std::string(200, 'x'), "the message has");
  EXPECT_NO_THROW(say(chat, "Still here"));
}

TEST_F(ChatTest, AnAnswerThatThrowsLeavesTheConversationAsItWas) {
  for (const bool drop_oldest : {false, true}) {
    ChatOptions own = options();
    own.drop_oldest = drop_oldest;
    Session session(*model_), undisturbed_session(*model_);
    Chat chat(session, *tokenizer_, own), undisturbed(undisturbed_session, *tokenizer_, own);
    const auto break_off = [&](const std::string& message) {
      const auto full = [](const std::string&) { throw std::runtime_error("full"); };
      EXPECT_THROW(chat.answer(message, full), std::runtime_error);
    };
    break_off("Hello");
    EXPECT_EQ(session.length(), 0);
    for (const char* message : {"Hi", "More"}) {
      say(chat, message);
      const std::string text = text_;
      say(undisturbed, message);
      EXPECT_EQ(text, text_);
    }
    const std::int64_t held = session.length();
    break_off(drop_oldest ? std::string(80, 'x') : "Yet");
    EXPECT_EQ(session.length(), drop_oldest ? 0 : held);
    EXPECT_EQ(say(chat, "Now").dropped, 0);
    const std::string text = text_;
    say(undisturbed, "Now");
    EXPECT_EQ(text, text_);
  }
}

TEST_F(ChatTest, AnInterruptEndsAnAnswer) {
  Session session(*model_);
  Chat chat(session, *tokenizer_, options());
  int asked = 0;
  const ChatAnswer answer = chat.answer(
      "Hi", [](const std::string&) {}, [&] { return ++asked == 3; });
  EXPECT_EQ(answer.stop_reason, StopReason::kStopText);
  EXPECT_NO_THROW(say(chat, "More"));
}

}  // namespace
}  // namespace quest
