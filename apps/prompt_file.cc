// Reading prompts and printing results, line by line.
#include "apps/prompt_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <limits>
#include <utility>

#include "apps/output.h"
#include "apps/text.h"
#include "core/error.h"

namespace quest::app {
namespace {

using Json = nlohmann::ordered_json;

const std::vector<std::string> kKeys{"prompt", "id",    "max_tokens", "temperature",
                                     "top_k",  "top_p", "seed",       "stop"};

// Nothing that a line may hold nests deeper than a list in an object; the limit keeps copies of
// values, which recurse, off the end of the stack.
constexpr int kMostNesting = 32;

Json parse_shallow(const std::string& text) {
  const auto check_depth = [](int depth, Json::parse_event_t, const Json&) {
    if (depth > kMostNesting) fail("the line nests more than {} levels deep", kMostNesting);
    return true;
  };
  return Json::parse(text, check_depth, false);
}

std::string text_of(const Json& value, const std::string& key) {
  if (!value.is_string()) fail("'{}' must be a text", key);
  return value.get<std::string>();
}

// Nobody means a larger number, and sums of two of them must not overflow.
constexpr std::int64_t kMostWhole = std::int64_t{1} << 62;
// As --seed.
constexpr std::int64_t kMostSeed = std::numeric_limits<std::int64_t>::max();

std::int64_t whole_of(const Json& value, const std::string& key, std::int64_t least,
                      std::int64_t most = kMostWhole) {
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(most)) {
    fail("'{}' must be a whole number of at most {}", key, most);
  }
  if (!value.is_number_integer() || value.get<std::int64_t>() < least) {
    fail("'{}' must be a whole number of at least {}", key, least);
  }
  return value.get<std::int64_t>();
}

double number_of(const Json& value, const std::string& key) {
  if (!value.is_number()) fail("'{}' must be a number", key);
  return value.get<double>();
}

std::vector<std::string> texts_of(const Json& value, const std::string& key) {
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_array()) fail("'{}' must be a text or a list of texts", key);
  std::vector<std::string> texts;
  for (const Json& entry : value) texts.push_back(text_of(entry, key));
  return texts;
}

void set(PromptLine& line, const std::string& key, const Json& value) {
  SamplingOptions& sampling = line.options.sampling;
  if (key == "prompt") {
    line.text = text_of(value, key);
    if (line.text->empty()) fail("the prompt is empty; leave it out to start a new document");
  } else if (key == "id") {
    // A float would come back with other digits, and so would a longer integer, which is one here.
    if (!value.is_primitive() || value.is_number_float()) {
      fail("'id' must be a text, a whole number of at most 64 bits, true, false or null");
    }
    line.id.emplace(value);
  } else if (key == "max_tokens") {
    line.options.max_tokens = whole_of(value, key, 1);
  } else if (key == "temperature") {
    sampling.temperature = number_of(value, key);
  } else if (key == "top_k") {
    sampling.top_k = whole_of(value, key, 0);
  } else if (key == "top_p") {
    sampling.top_p = number_of(value, key);
  } else if (key == "seed") {
    sampling.seed = static_cast<std::uint64_t>(whole_of(value, key, 0, kMostSeed));
  } else if (key == "stop") {
    line.stop = texts_of(value, key);
  } else {
    fail("there is no key '{}'{}", key,
         nearest_hint(nearest_text(key, kKeys), "; use " + alternatives(kKeys)));
  }
}

}  // namespace

PromptLine parse_prompt_line(const std::string& text, const PromptDefaults& defaults) {
  PromptLine line;
  line.options = defaults.options;
  line.stop = defaults.stop;
  try {
    const Json object = parse_shallow(text);
    if (!object.is_object()) fail("the line is not a JSON object");
    // So that an error further on in the line still has its id.
    if (object.contains("id")) set(line, "id", object.at("id"));
    for (const auto& [key, value] : object.items()) set(line, key, value);
    line.options.sampling.validate();
  } catch (const Error& error) {
    line.error = error.what();
  }
  return line;
}

PromptFile::PromptFile(const std::string& path, PromptDefaults defaults)
    : path_(path), defaults_(std::move(defaults)), in_(&std::cin) {
  if (path == "-") return;
  file_.open(path);
  if (!file_) fail("cannot open the prompts {}", path);
  in_ = &file_;
}

std::optional<PromptLine> PromptFile::next() {
  std::string text;
  while (std::getline(*in_, text)) {
    ++line_number_;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    PromptLine line = parse_prompt_line(text, defaults_);
    line.index = index_++;
    if (!line.error.empty()) {
      line.error = fmt::format("{} line {}: {}", path_ == "-" ? "standard input," : path_ + ",",
                               line_number_, line.error);
    }
    return line;
  }
  if (in_->bad()) fail("cannot read the prompts {}", path_);
  return std::nullopt;
}

void OrderedLines::put(std::int64_t index, const Json& object) {
  waiting_[index] = object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  while (!waiting_.empty() && waiting_.begin()->first == next_) {
    print_out(waiting_.begin()->second);
    waiting_.erase(waiting_.begin());
    ++next_;
  }
}

}  // namespace quest::app
