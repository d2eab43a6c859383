// Standard output: whole texts and results, with every failure of the stream noticed.
#pragma once

#include <exception>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace quest::app {

/// The reader of standard output has gone (`quest ... | head`). main ends quietly on it; it is no
/// quest::Error because nothing is wrong.
class OutputClosed : public std::exception {
 public:
  const char* what() const noexcept override { return "standard output was closed"; }
};

/// Standard output cannot be written: no command goes on after it, whatever else it forgives.
class OutputError : public Error {
 public:
  using Error::Error;
};

/// To be called once, first: a closed pipe becomes an error code instead of a signal, and the three
/// standard streams exist, so that no file that is opened later can take their place.
void prepare_streams();

/// Writes `text` to stdout and flushes. Throws OutputClosed when the reader has gone,
/// OutputError when it cannot be written (a full disk).
void print_out(std::string_view text);

/// A sentence beside the results, on stderr.
void say(std::string_view sentence);

/// The numbers that a command reports: for people, or as one JSON object with --json.
class Report {
 public:
  Report();
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  /// Adds `key` to the object; people see "label   shown". An empty `shown` prints the value.
  /// NaN and infinities become null in JSON.
  void add(const std::string& key, const nlohmann::ordered_json& value, const std::string& label,
           const std::string& shown = "");
  /// Adds `key` to the object only (nested results that the command prints in its own way).
  void add_json(const std::string& key, const nlohmann::ordered_json& value);
  /// A line for people only, of what `add_json` has put into the object.
  void add_text(const std::string& label, const std::string& shown);
  /// Writes everything to stdout.
  void print(bool as_json) const;

 private:
  struct Row {
    std::string label, shown;
  };
  std::vector<Row> rows_;
  std::unique_ptr<nlohmann::ordered_json> object_;
};

}  // namespace quest::app
