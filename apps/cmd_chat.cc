// quest chat: a conversation with a model, line by line.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>

#include "apps/command.h"
#include "apps/interrupted.h"
#include "apps/model_options.h"
#include "apps/options.h"
#include "apps/output.h"
#include "apps/text.h"
#include "core/error.h"
#include "data/utf8.h"
#include "infer/chat.h"

namespace quest::app {
namespace {

class ChatCommand : public Command {
 public:
  CommandText text() const override {
    return {"chat",
            "Talk with a model: each line is a message; /reset starts anew, /exit ends",
            {"quest chat --model my-model",
             "quest chat --model my-model --system 'Answer in one sentence.' --template chatml",
             "printf 'Hello\\nAnd then?\\n' | quest chat --model my-model --temp 0"}};
  }

  void declare(CLI::App& app) override {
    model_.declare_model(app);
    app.add_option("--system", options_.system, "instructions before the first message")
        ->type_name("TEXT");
    app.add_option("--template", template_,
                   "how turns are written: chatml, llama2, llama3, zephyr, plain; auto: as the "
                   "model's tokenizer_config.json says, plain where it says nothing known")
        ->type_name("NAME")
        ->capture_default_str();
    add_whole(app, "-n,--tokens", options_.max_tokens, {.low = 1}, "most tokens of an answer");
    app.add_option("--stop", options_.stop, "end an answer before this text; may be repeated")
        ->type_name("TEXT");
    app.add_flag("--drop-oldest", options_.drop_oldest,
                 "when the context is full, forget the oldest turns instead of refusing");
    add_sampling(app, options_.sampling, seed_);
    model_.declare_context(app);
    model_.declare_kv_bits(app);
    model_.declare_machine(app);
  }

  int run() override {
    options_.sampling.seed = static_cast<std::uint64_t>(seed_);
    options_.sampling.validate();
    if (template_ != "auto" && !chat_form_named(template_)) {
      throw UsageError(fmt::format("there is no --template '{}'; use auto, {}", template_,
                                   alternatives(chat_form_names())));
    }
    require_utf8(options_.system, "--system");
    const LoadedModel loaded = model_.load();
    options_.form = form_for(loaded);
    Session session(*loaded.model, {.kept = model_.kept()});
    Chat chat(session, *loaded.tokenizer, options_);
    if (interactive_) {
      fmt::print(stderr, "{} template, context of {} tokens; /reset starts anew, /exit ends\n",
                 name(options_.form), session.capacity());
    }
    talk(chat);
    return refused_ ? 1 : 0;
  }

 private:
  ChatForm form_for(const LoadedModel& loaded) const {
    if (template_ != "auto") return *chat_form_named(template_);
    const std::optional<std::string> jinja = read_chat_template(loaded.folder);
    if (!jinja) return ChatForm::kPlain;
    if (const auto form = recognise_chat_form(*jinja)) return *form;
    say("the model's chat template is of no known form; turns are written plainly");
    return ChatForm::kPlain;
  }

  void talk(Chat& chat) {
    while (const std::optional<std::string> message = read_message()) {
      if (*message == "/exit") return;
      if (*message == "/reset") {
        chat.reset();
        say("a new conversation");
      } else if (message->starts_with("/")) {
        refused_ = refused_ || !interactive_;
        say(fmt::format("there is no command '{}'; /reset starts anew, /exit ends", *message));
      } else {
        answer(chat, *message);
      }
    }
  }

  // The next line that is not blank; lines that end in a backslash go on. None at the end of input.
  std::optional<std::string> read_message() const {
    std::string message;
    for (bool more = true; more;) {
      if (interactive_) fmt::print(stderr, "{}", message.empty() ? "> " : ". ");
      std::string line;
      if (!std::getline(std::cin, line)) {
        if (interactive_) fmt::print(stderr, "\n");
        return message.empty() ? std::nullopt : std::optional(message);
      }
      if (line.ends_with('\r')) line.pop_back();
      more = line.ends_with('\\');
      if (more) line.back() = '\n';
      message += line;
      more = more || message.find_first_not_of(" \t\n") == std::string::npos;
      if (message.find_first_not_of(" \t\n") == std::string::npos) message.clear();
    }
    return message;
  }

  void answer(Chat& chat, const std::string& message) {
    StopSignal signal;
    try {
      require_utf8(message, "the message");
      const ChatAnswer answer = chat.answer(
          message, [](const std::string& text) { print_out(text); },
          [&signal] { return signal.requested(); });
      print_out("\n");
      if (answer.dropped > 0) {
        say(fmt::format("{} of the oldest turns were forgotten before this answer",
                        answer.dropped));
      }
      if (answer.stop_reason == StopReason::kContext) {
        say("the context is full, so the answer ends here; /reset starts a new conversation, "
            "--context makes it larger");
      }
    } catch (const NonFiniteError&) {
      throw;
    } catch (const OutputError&) {
      throw;
    } catch (const Error& error) {
      refused_ = true;
      say(error.what());
    }
    // On a terminal, the interrupt key ends an answer, not the conversation.
    if (signal.exit_code() == 128 + SIGTERM || !interactive_) throw_if_requested(signal);
  }

  ModelOptions model_;
  std::string template_ = "auto";
  ChatOptions options_{.max_tokens = 400, .sampling = {.temperature = 0.8, .top_p = 0.95}};
  std::int64_t seed_ = 0;
  bool interactive_ = isatty(STDIN_FILENO) == 1;
  bool refused_ = false;
};

}  // namespace

std::unique_ptr<Command> make_chat_command() { return std::make_unique<ChatCommand>(); }

}  // namespace quest::app
