// For tests: a proof that no text of a grammar has two derivations, and the decoder it implies.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/synth/grammar.h"

namespace quest {

/// Looks for two choices that the text after them may not tell apart.
///
/// Suppose a text had two derivations. At their first difference, from left to right, both have
/// written the same characters and hold the same rows, and choose differently; the rest of the text
/// would have to come from both choices. So it suffices that for each choice, in each context in
/// which it occurs, the texts that can follow its options, up to the end of the story, pairwise
/// differ in a character. `run` walks all contexts and compares all pairs, expanding what follows
/// only as far as needed. What a variable shows counts as the same on both sides only while neither
/// side has drawn it since the choice. Variables are taken to hold any row of any table they are
/// drawn from, which only makes the proof harder.
class AmbiguitySearch {
 public:
  explicit AmbiguitySearch(const Grammar& grammar) : grammar_(grammar) {
    for (const GrammarRule& rule : grammar.rules()) {
      for (const auto& alternative : rule.alternatives) {
        for (const auto& element : alternative.elements) {
          if (element.kind == GrammarElement::Kind::kDraw) {
            tables_of_[element.variable][element.table] = true;
          }
        }
      }
    }
  }

  /// A description of a choice that is not proven, or nothing: then every text is unambiguous.
  std::optional<std::string> run() {
    problem_.reset();
    comparisons_ = 0;
    walk_rule(grammar_.start(), nullptr);
    return problem_;
  }
  long comparisons() const { return comparisons_; }

 private:
  /// What is still to be written: a literal or elements, then `next`.
  struct Rest;
  using RestPtr = std::shared_ptr<const Rest>;
  struct Rest {
    std::string literal;  ///< Used when `elements` is null.
    const std::vector<GrammarElement>* elements = nullptr;
    std::size_t at = 0;
    RestPtr next;
  };

  static RestPtr literal(std::string text, RestPtr next) {
    if (text.empty()) return next;
    return std::make_shared<Rest>(Rest{std::move(text), nullptr, 0, std::move(next)});
  }
  static RestPtr after(const std::vector<GrammarElement>& elements, std::size_t at, RestPtr next) {
    if (at == elements.size()) return next;
    return std::make_shared<Rest>(Rest{{}, &elements, at, std::move(next)});
  }
  static const GrammarElement& head(const Rest& rest) { return (*rest.elements)[rest.at]; }
  static RestPtr tail(const Rest& rest) { return after(*rest.elements, rest.at + 1, rest.next); }

  void walk_rule(std::size_t index, const RestPtr& next) {
    if (problem_) return;
    const GrammarRule& rule = grammar_.rules()[index];
    std::vector<RestPtr> options;
    for (const auto& alternative : rule.alternatives) {
      options.push_back(after(alternative.elements, 0, next));
    }
    require_distinct(options, "rule " + rule.name);
    for (const auto& alternative : rule.alternatives) {
      for (std::size_t at = 0; at < alternative.elements.size(); ++at) {
        const GrammarElement& element = alternative.elements[at];
        const RestPtr rest = after(alternative.elements, at + 1, next);
        if (element.kind == GrammarElement::Kind::kRule) walk_rule(element.rule, rest);
        if (element.kind == GrammarElement::Kind::kDraw) {
          std::vector<RestPtr> rows;
          for (const auto& text : cells(element)) rows.push_back(literal(text, rest));
          ++drawn_since_[element.variable];
          require_distinct(rows, "draw of " + element.column + " in rule " + rule.name);
          --drawn_since_[element.variable];
        }
      }
    }
  }

  void require_distinct(const std::vector<RestPtr>& options, const std::string& where) {
    for (std::size_t i = 0; i < options.size() && !problem_; ++i) {
      for (std::size_t j = i + 1; j < options.size() && !problem_; ++j) {
        matched_.clear();
        if (!differ(options[i], options[j])) {
          problem_ = where + ": options " + std::to_string(i) + " and " + std::to_string(j) +
                     " both may give '" + matched_ + "'";
        }
      }
    }
  }

  /// The texts that an element which shows a column may show.
  std::vector<std::string> cells(const GrammarElement& element) const {
    std::vector<std::string> result;
    const auto add = [&](std::size_t table_index) {
      const GrammarTable& table = grammar_.tables()[table_index];
      for (std::size_t row = 0; row < table.rows.size(); ++row) {
        result.push_back(table.cell(row, element.column, element.capital));
      }
    };
    if (element.kind == GrammarElement::Kind::kDraw) {
      add(element.table);
    } else {
      for (const auto& [table, drawn] : tables_of_.at(element.variable)) add(table);
    }
    return result;
  }

  std::vector<RestPtr> expansions(const Rest& rest) const {
    std::vector<RestPtr> result;
    const GrammarElement& element = head(rest);
    if (element.kind == GrammarElement::Kind::kText) {
      result.push_back(literal(element.text, tail(rest)));
    } else if (element.kind == GrammarElement::Kind::kRule) {
      for (const auto& alternative : grammar_.rules()[element.rule].alternatives) {
        result.push_back(after(alternative.elements, 0, tail(rest)));
      }
    } else {
      for (const auto& text : cells(element)) result.push_back(literal(text, tail(rest)));
    }
    return result;
  }

  bool same_reference(const Rest& a, const Rest& b) {
    if (!a.elements || !b.elements) return false;
    const GrammarElement& x = head(a);
    const GrammarElement& y = head(b);
    return x.kind == GrammarElement::Kind::kReference && y.kind == x.kind &&
           x.variable == y.variable && drawn_since_[x.variable] == 0 && x.column == y.column &&
           x.capital == y.capital;
  }

  /// True when no text of `a` is a text of `b` or a beginning of one, nor the other way round.
  bool differ(const RestPtr& a, const RestPtr& b) {
    ++comparisons_;
    if (!a || !b) return false;
    if (same_reference(*a, *b)) {
      matched_ += "{" + head(*a).column + "}";
      return differ(tail(*a), tail(*b));
    }
    if (a->elements || b->elements) {
      const bool first = a->elements != nullptr;
      const Rest& expanded = first ? *a : *b;
      const bool draws = head(expanded).kind == GrammarElement::Kind::kDraw;
      const std::string matched = matched_;
      bool all_differ = true;
      if (draws) ++drawn_since_[head(expanded).variable];
      for (const RestPtr& option : expansions(expanded)) {
        matched_ = matched;
        all_differ = differ(first ? option : a, first ? b : option);
        if (!all_differ) break;
      }
      if (draws) --drawn_since_[head(expanded).variable];
      return all_differ;
    }
    const std::size_t size = std::min(a->literal.size(), b->literal.size());
    if (a->literal.compare(0, size, b->literal, 0, size) != 0) return true;
    matched_ += a->literal.substr(0, size);
    return differ(literal(a->literal.substr(size), a->next),
                  literal(b->literal.substr(size), b->next));
  }

  const Grammar& grammar_;
  std::map<std::size_t, std::map<std::size_t, bool>> tables_of_;
  std::map<std::size_t, int> drawn_since_;  ///< Draws of a variable behind the choice at hand.
  std::optional<std::string> problem_;
  std::string matched_;
  long comparisons_ = 0;
};

/// Finds the derivations of a text by trying every choice, and counts them.
class Decoder {
 public:
  struct Result {
    int derivations = 0;
    double bits = 0.0;  ///< Of the last derivation found.
  };

  explicit Decoder(const Grammar& grammar) : grammar_(grammar) {}

  Result decode(const std::string& text) {
    text_ = text;
    result_ = {};
    held_.assign(grammar_.variables(), {0, 0});
    expand(grammar_.start(), 0, 0.0, [&](std::size_t at, double bits) {
      if (at != text_.size()) return;
      ++result_.derivations;
      result_.bits = bits;
    });
    return result_;
  }

 private:
  using Continue = std::function<void(std::size_t at, double bits)>;

  void expand(std::size_t index, std::size_t at, double bits, const Continue& then) {
    const GrammarRule& rule = grammar_.rules()[index];
    for (const auto& alternative : rule.alternatives) {
      const double cost = std::log2(static_cast<double>(rule.total_weight) /
                                    static_cast<double>(alternative.weight));
      sequence(alternative.elements, 0, at, bits + cost, then);
    }
  }

  void sequence(const std::vector<GrammarElement>& elements, std::size_t index, std::size_t at,
                double bits, const Continue& then) {
    if (index == elements.size()) return then(at, bits);
    const GrammarElement& element = elements[index];
    const Continue go_on = [&, index](std::size_t next, double total) {
      sequence(elements, index + 1, next, total, then);
    };
    if (element.kind == GrammarElement::Kind::kText) {
      match(element.text, at, bits, go_on);
    } else if (element.kind == GrammarElement::Kind::kRule) {
      expand(element.rule, at, bits, go_on);
    } else if (element.kind == GrammarElement::Kind::kReference) {
      const auto [table, row] = held_[element.variable];
      match(grammar_.tables()[table].cell(row, element.column, element.capital), at, bits, go_on);
    } else {
      draw(element, at, bits, go_on);
    }
  }

  void draw(const GrammarElement& element, std::size_t at, double bits, const Continue& go_on) {
    const GrammarTable& table = grammar_.tables()[element.table];
    const auto before = held_[element.variable];
    const double choices = static_cast<double>(table.rows.size() - element.without.size());
    for (std::size_t row = 0; row < table.rows.size(); ++row) {
      bool free = true;
      for (const std::size_t other : element.without) free = free && held_[other].second != row;
      if (!free) continue;
      held_[element.variable] = {element.table, row};
      match(table.cell(row, element.column, element.capital), at, bits + std::log2(choices), go_on);
    }
    held_[element.variable] = before;
  }

  void match(const std::string& piece, std::size_t at, double bits, const Continue& go_on) {
    if (text_.compare(at, piece.size(), piece) == 0) go_on(at + piece.size(), bits);
  }

  const Grammar& grammar_;
  std::string text_;
  Result result_;
  std::vector<std::pair<std::size_t, std::size_t>> held_;  ///< Table and row of each variable.
};

}  // namespace quest
