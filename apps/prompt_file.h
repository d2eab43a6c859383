// Files of prompts, one JSON object a line, and their results, in the same order.
#pragma once

#include <cstdint>
#include <fstream>
#include <istream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "infer/generate.h"

namespace quest::app {

/// One line: a prompt with its settings, or what is wrong with the line.
struct PromptLine {
  std::int64_t index = 0;                    ///< counts the lines that are not blank, from 0
  std::optional<nlohmann::ordered_json> id;  ///< as given, which may be null
  std::optional<std::string> text;           ///< none: a new document
  GenerateOptions options;                   ///< the command's, changed by the line
  std::vector<std::string> stop;             ///< likewise
  std::string error;                         ///< one sentence; empty: nothing is wrong
};

/// The settings that lines may change.
struct PromptDefaults {
  GenerateOptions options;
  std::vector<std::string> stop;
};

/// Reads a file of prompts, or standard input ("-"), line by line as they are asked for.
class PromptFile {
 public:
  /// Throws Error when the file cannot be opened.
  PromptFile(const std::string& path, PromptDefaults defaults);

  /// The next line that is not blank; none at the end. Throws Error when the file cannot be read.
  std::optional<PromptLine> next();

 private:
  std::string path_;
  PromptDefaults defaults_;
  std::ifstream file_;
  std::istream* in_;
  std::int64_t line_number_ = 0;
  std::int64_t index_ = 0;
};

/// Parses one line; never throws: what is wrong becomes `error`.
PromptLine parse_prompt_line(const std::string& line, const PromptDefaults& defaults);

/// Prints lines on stdout in the order of their indices, each as soon as those before it are there.
class OrderedLines {
 public:
  void put(std::int64_t index, const nlohmann::ordered_json& object);

 private:
  std::map<std::int64_t, std::string> waiting_;
  std::int64_t next_ = 0;
};

}  // namespace quest::app
