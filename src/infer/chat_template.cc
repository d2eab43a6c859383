// The known chat forms and how to tell them apart.
#include "infer/chat_template.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"

namespace quest {
namespace {

using Json = nlohmann::ordered_json;
using Pieces = std::vector<ChatPiece>;

constexpr std::string_view kConfigFile = "tokenizer_config.json";
const ChatPiece kEndOfText{"", true};

struct Known {
  ChatForm form;
  std::string_view name;
  std::string_view marker;  // in a Jinja template
};
constexpr std::array<Known, 5> kKnown{{{ChatForm::kChatMl, "chatml", "<|im_start|>"},
                                       {ChatForm::kLlama3, "llama3", "<|start_header_id|>"},
                                       {ChatForm::kLlama2, "llama2", "[INST]"},
                                       {ChatForm::kZephyr, "zephyr", "<|assistant|>"},
                                       {ChatForm::kPlain, "plain", ""}}};

std::string chatml(std::string_view role, const std::string& text) {
  return fmt::format("<|im_start|>{}\n{}<|im_end|>\n", role, text);
}

std::string llama3(std::string_view role, const std::string& text) {
  return fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>", role, text);
}

Json read_object(const std::filesystem::path& path) {
  Json json = Json::parse(read_file(path), nullptr, false);
  if (!json.is_object()) fail("{} is not a JSON object", path.string());
  return json;
}

}  // namespace

std::string_view name(ChatForm form) {
  for (const Known& known : kKnown) {
    if (known.form == form) return known.name;
  }
  return "";
}

std::optional<ChatForm> chat_form_named(std::string_view name) {
  for (const Known& known : kKnown) {
    if (known.name == name) return known.form;
  }
  return std::nullopt;
}

std::vector<std::string> chat_form_names() {
  std::vector<std::string> names;
  for (const Known& known : kKnown) names.emplace_back(known.name);
  return names;
}

std::optional<ChatForm> recognise_chat_form(std::string_view jinja) {
  for (const Known& known : kKnown) {
    if (!known.marker.empty() && jinja.find(known.marker) != std::string_view::npos) {
      return known.form;
    }
  }
  return std::nullopt;
}

std::optional<std::string> read_chat_template(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kConfigFile;
  if (!std::filesystem::exists(path)) return std::nullopt;
  const auto config = read_object(path);
  const auto found = config.find("chat_template");
  if (found == config.end()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const auto& entry : *found) {
      if (!entry.is_object() || entry.value("name", Json()) != "default") continue;
      const Json text = entry.value("template", Json());
      if (!text.is_string()) {
        fail("{}: the default chat_template has no text as its 'template'", path.string());
      }
      return text.get<std::string>();
    }
  }
  return std::nullopt;
}

void write_chat_template(const std::filesystem::path& folder, const std::string& jinja) {
  auto config = read_object(folder / kConfigFile);
  config["chat_template"] = jinja;
  write_file(folder / kConfigFile, config.dump(2) + "\n");
}

Pieces ChatTemplate::first_turn(const std::string& system, const std::string& user) const {
  // Documents follow an end-of-text token in training, and a conversation is one.
  Pieces pieces{kEndOfText};
  const bool has_system = !system.empty();
  switch (form_) {
    case ChatForm::kPlain:
      pieces.push_back({(has_system ? system + "\n\n" : "") + "User: " + user + "\nAssistant:"});
      break;
    case ChatForm::kChatMl:
      pieces.push_back({(has_system ? chatml("system", system) : "") + chatml("user", user) +
                        "<|im_start|>assistant\n"});
      break;
    case ChatForm::kLlama3:
      pieces.push_back({(has_system ? llama3("system", system) : "") + llama3("user", user) +
                        "<|start_header_id|>assistant<|end_header_id|>\n\n"});
      break;
    case ChatForm::kLlama2:
      pieces.push_back({"[INST] " + (has_system ? "<<SYS>>\n" + system + "\n<</SYS>>\n\n" : "") +
                        user + " [/INST]"});
      break;
    case ChatForm::kZephyr:
      if (has_system) {
        pieces.insert(pieces.end(), {{"<|system|>\n" + system}, kEndOfText, {"\n"}});
      }
      pieces.insert(pieces.end(), {{"<|user|>\n" + user}, kEndOfText, {"\n<|assistant|>\n"}});
      break;
  }
  return pieces;
}

Pieces ChatTemplate::next_turn(const std::string& user) const {
  switch (form_) {
    case ChatForm::kPlain:
      return {{"\nUser: " + user + "\nAssistant:"}};
    case ChatForm::kChatMl:
      return {{"<|im_end|>\n" + chatml("user", user) + "<|im_start|>assistant\n"}};
    case ChatForm::kLlama3:
      return {{"<|eot_id|>" + llama3("user", user) +
               "<|start_header_id|>assistant<|end_header_id|>\n\n"}};
    case ChatForm::kLlama2:
      return {kEndOfText, {"[INST] " + user + " [/INST]"}};
    case ChatForm::kZephyr:
      return {kEndOfText, {"\n<|user|>\n" + user}, kEndOfText, {"\n<|assistant|>\n"}};
  }
  return {};
}

std::vector<std::string> ChatTemplate::stop_texts() const {
  switch (form_) {
    case ChatForm::kPlain:
      return {"\nUser:"};
    case ChatForm::kChatMl:
      return {"<|im_end|>", "<|im_start|>"};
    case ChatForm::kLlama3:
      return {"<|eot_id|>", "<|start_header_id|>"};
    case ChatForm::kLlama2:
      return {"[INST]"};
    case ChatForm::kZephyr:
      return {"<|user|>", "<|system|>"};
  }
  return {};
}

}  // namespace quest
