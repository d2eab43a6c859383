// Reading of a grammar's source text.
#include <algorithm>
#include <functional>
#include <map>

#include "core/error.h"
#include "data/synth/grammar.h"

namespace quest {
namespace {

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const auto at = text.find(separator);
    parts.emplace_back(trimmed(text.substr(0, at)));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

}  // namespace

/// Builds a Grammar line by line; names are resolved once all lines are read.
class GrammarParser {
 public:
  GrammarParser(Grammar& grammar, std::string_view source) : grammar_(grammar), source_(source) {}

  void run() {
    std::string_view rest = source_;
    while (!rest.empty()) {
      const auto newline = rest.find('\n');
      ++line_;
      read_line(trimmed(rest.substr(0, newline)));
      rest.remove_prefix(newline == std::string_view::npos ? rest.size() : newline + 1);
    }
    for (const Template& entry : templates_) {
      line_ = entry.line;
      for (const std::string& text : split(entry.text, '/')) {
        if (text.empty()) refuse("an alternative is empty (\\e stands for nothing)");
        auto& alternative = grammar_.rules_[entry.rule].alternatives.emplace_back();
        alternative.weight = entry.weight;
        parse_template(text, alternative.elements);
        grammar_.rules_[entry.rule].total_weight += entry.weight;
      }
    }
    for (const GrammarRule& rule : grammar_.rules_) {
      if (rule.alternatives.empty()) fail("grammar: the rule '{}' has no alternative", rule.name);
    }
    grammar_.start_ = rule_named("story");
    require_no_recursion();
  }

 private:
  struct Template {
    std::size_t rule;
    std::uint64_t weight;
    std::string text;
    int line;
  };

  [[noreturn]] void refuse(const std::string& what) const {
    fail("grammar, line {}: {}", line_, what);
  }

  void read_line(std::string_view line) {
    if (line.empty() || line[0] == '#') return;
    const auto dash = std::min(line.find_first_not_of("0123456789"), line.size() - 1);
    if (line.starts_with("table ")) {
      const auto colon = line.find(':');
      if (colon == std::string_view::npos) refuse("a table needs ': COLUMN | COLUMN'");
      in_table_ = true;
      grammar_.tables_.push_back({std::string(trimmed(line.substr(6, colon - 6))),
                                  split(line.substr(colon + 1), '|'),
                                  {}});
    } else if (line.starts_with("rule ")) {
      in_table_ = false;
      grammar_.rules_.push_back({std::string(trimmed(line.substr(5))), {}, 0});
    } else if (in_table_) {
      if (line[0] != '|') refuse("a row starts with '|'");
      GrammarTable& table = grammar_.tables_.back();
      const std::vector<std::string> cells = split(line.substr(1), '|');
      if (cells.size() % table.columns.size() != 0) refuse("a row has too few or many cells");
      for (std::size_t i = 0; i < cells.size(); ++i) {
        if (cells[i].empty()) refuse("a cell is empty");
        if (i % table.columns.size() == 0) table.rows.emplace_back();
        table.rows.back().push_back(cells[i]);
      }
    } else if (grammar_.rules_.empty()) {
      refuse("expected 'table' or 'rule'");
    } else if (line[dash] == '-') {
      const std::uint64_t weight = dash == 0 ? 1 : std::stoull(std::string(line.substr(0, dash)));
      if (weight == 0) refuse("a weight is 0");
      templates_.push_back(
          {grammar_.rules_.size() - 1, weight, std::string(trimmed(line.substr(dash + 1))), line_});
    } else {
      if (templates_.empty()) refuse("an alternative starts with '-'");
      std::string& text = templates_.back().text;
      if (!text.ends_with("\\n") && !line.starts_with("\\n")) text += ' ';
      text += line;
    }
  }

  void parse_template(std::string_view text, std::vector<GrammarElement>& out) {
    while (!text.empty()) {
      const char first = text[0];
      if (first == '[' || first == '{') {
        const auto close = text.find(first == '[' ? ']' : '}');
        if (close == std::string_view::npos) refuse("a bracket is not closed");
        const std::string_view inside = text.substr(1, close - 1);
        out.push_back(first == '[' ? rule_element(inside) : variable_element(inside));
        text.remove_prefix(close + 1);
        continue;
      }
      GrammarElement element;
      const auto end = std::min(text.find_first_of("[{"), text.size());
      element.text = unescaped(text.substr(0, end));
      if (!element.text.empty()) out.push_back(std::move(element));
      text.remove_prefix(end);
    }
  }

  std::string unescaped(std::string_view text) const {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\') {
        result += text[i];
        continue;
      }
      const char code = ++i < text.size() ? text[i] : '\0';
      if (code == 's') {
        result += ' ';
      } else if (code == 'n') {
        result += '\n';
      } else if (code != 'e') {
        refuse("a backslash is followed by neither s, n nor e");
      }
    }
    return result;
  }

  GrammarElement rule_element(std::string_view inside) {
    GrammarElement element;
    element.kind = GrammarElement::Kind::kRule;
    element.rule = rule_named(std::string(inside));
    return element;
  }

  GrammarElement variable_element(std::string_view inside) {
    const auto dot = inside.find('.');
    if (dot == std::string_view::npos) refuse("a variable is shown without a column");
    GrammarElement element;
    const auto left = split(inside.substr(0, dot), '=');
    const auto right = split(inside.substr(dot + 1), '!');
    element.kind =
        left.size() == 2 ? GrammarElement::Kind::kDraw : GrammarElement::Kind::kReference;
    element.variable = variable_named(left[0]);
    if (left.size() == 2) element.table = table_named(left[1]);
    element.column = right[0];
    if (element.column.empty()) refuse("a column has no name");
    if (char& letter = element.column[0]; letter >= 'A' && letter <= 'Z') {
      element.capital = true;
      letter = static_cast<char>(letter - 'A' + 'a');
    }
    for (std::size_t i = 1; i < right.size(); ++i) {
      element.without.push_back(variable_named(right[i]));
    }
    return element;
  }

  std::size_t rule_named(const std::string& name) const {
    for (std::size_t i = 0; i < grammar_.rules_.size(); ++i) {
      if (grammar_.rules_[i].name == name) return i;
    }
    refuse("there is no rule '" + name + "'");
  }
  std::size_t table_named(const std::string& name) const {
    for (std::size_t i = 0; i < grammar_.tables_.size(); ++i) {
      if (grammar_.tables_[i].name == name) return i;
    }
    refuse("there is no table '" + name + "'");
  }
  std::size_t variable_named(const std::string& name) {
    auto& names = grammar_.variable_names_;
    const auto found = std::find(names.begin(), names.end(), name);
    if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
    names.push_back(name);
    return names.size() - 1;
  }

  void require_no_recursion() const {
    enum class Mark { kNew, kOpen, kDone };
    std::vector<Mark> marks(grammar_.rules_.size(), Mark::kNew);
    const std::function<void(std::size_t)> visit = [&](std::size_t index) {
      if (marks[index] == Mark::kDone) return;
      const GrammarRule& rule = grammar_.rules_[index];
      if (marks[index] == Mark::kOpen) fail("grammar: the rule '{}' recurs", rule.name);
      marks[index] = Mark::kOpen;
      for (const auto& alternative : rule.alternatives) {
        for (const auto& element : alternative.elements) {
          if (element.kind == GrammarElement::Kind::kRule) visit(element.rule);
        }
      }
      marks[index] = Mark::kDone;
    };
    visit(grammar_.start_);
    for (std::size_t i = 0; i < marks.size(); ++i) {
      if (marks[i] == Mark::kNew)
        fail("grammar: the rule '{}' is not used", grammar_.rules_[i].name);
    }
  }

  Grammar& grammar_;
  std::string_view source_;
  int line_ = 0;
  bool in_table_ = false;
  std::vector<Template> templates_;
};

Grammar::Grammar(std::string_view source) {
  GrammarParser(*this, source).run();
  expectation();  // Throws where a variable is shown that may not have been drawn.
}

}  // namespace quest
