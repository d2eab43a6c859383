// Stochastic grammars with agreement: generation of text, and its exact expected entropy.
//
// A grammar is written as text. `table NAME: COLUMN | COLUMN ...` is followed by rows `| CELL |
// ...` (several may share a line), `rule NAME` by alternatives `- TEMPLATE` or `WEIGHT- TEMPLATE`,
// or
// `- TEMPLATE / TEMPLATE ...` for several of one weight. A template may go on in the next lines,
// and
// `#` starts a comment line. In a template
//   [name]                 stands for the rule `name`;
//   {var=table.column}     draws a row of the table, all alike, names it `var`, and shows a column;
//   {var=table.column!a!b} the same, of the rows that the variables a and b do not hold;
//   {var.column}           shows a column of the row drawn before; {var.Column} with a capital;
//   \s \n \e               are a space, a newline, and nothing.
// The rule `story` is the start. Rules do not recur, and no weight depends on what was drawn, so
// expectations are finite sums.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/rng.h"

namespace quest {

/// A part of a template.
struct GrammarElement {
  enum class Kind { kText, kReference, kDraw, kRule };

  Kind kind = Kind::kText;
  std::string text;                  ///< kText
  std::size_t rule = 0;              ///< kRule
  std::size_t variable = 0;          ///< kReference, kDraw
  std::size_t table = 0;             ///< kDraw
  std::string column;                ///< kReference, kDraw
  bool capital = false;              ///< kReference, kDraw
  std::vector<std::size_t> without;  ///< kDraw: variables whose rows are left out.
};

struct GrammarAlternative {
  std::uint64_t weight = 1;
  std::vector<GrammarElement> elements;
};

struct GrammarRule {
  std::string name;
  std::vector<GrammarAlternative> alternatives;
  std::uint64_t total_weight = 0;
};

struct GrammarTable {
  std::string name;
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;  ///< [row][column]

  /// The cell, with a capital if asked for. Throws Error when there is no such column.
  std::string cell(std::size_t row, const std::string& column, bool capital) const;
};

class Grammar {
 public:
  /// Throws Error, with the line, when `source` is not a grammar as described above, or a variable
  /// is used where some path has not drawn it.
  explicit Grammar(std::string_view source);

  struct Sample {
    std::string text;
    double bits = 0.0;  ///< -log2 of the probability of the choices made.
  };
  /// One text. Draws from `rng` with probabilities that are exact ratios of integers.
  Sample generate(Rng& rng) const;

  /// Expected values of `Sample::bits` and of the size of `Sample::text`, computed from the
  /// grammar. Where no text has two derivations, `bits` is the entropy of the text.
  struct Expectation {
    double bits = 0.0;
    double bytes = 0.0;
  };
  Expectation expectation() const;

  const std::vector<GrammarRule>& rules() const { return rules_; }
  const std::vector<GrammarTable>& tables() const { return tables_; }
  std::size_t start() const { return start_; }
  std::size_t variables() const { return variable_names_.size(); }

 private:
  friend class GrammarParser;

  std::vector<GrammarRule> rules_;
  std::vector<GrammarTable> tables_;
  std::vector<std::string> variable_names_;
  std::size_t start_ = 0;
};

}  // namespace quest
