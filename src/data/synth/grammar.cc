// Generation from a grammar, and the exact expectations.
#include "data/synth/grammar.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/error.h"

namespace quest {
namespace {

struct DrawnRow {
  std::size_t table = 0;
  std::size_t row = 0;
};

/// Writes one text from left to right.
class Generator {
 public:
  Generator(const Grammar& grammar, Rng& rng)
      : grammar_(grammar), rng_(rng), drawn_(grammar.variables()) {}

  void expand(std::size_t rule_index) {
    const GrammarRule& rule = grammar_.rules()[rule_index];
    std::uint64_t pick = choose(rule.total_weight);
    std::size_t index = 0;
    while (pick >= rule.alternatives[index].weight) pick -= rule.alternatives[index++].weight;
    const GrammarAlternative& chosen = rule.alternatives[index];
    sample.bits +=
        std::log2(static_cast<double>(rule.total_weight) / static_cast<double>(chosen.weight));
    for (const GrammarElement& element : chosen.elements) write(element);
  }

  Grammar::Sample sample;

 private:
  /// Uniform below `bound`; spends no randomness where there is no choice.
  std::uint64_t choose(std::uint64_t bound) { return bound == 1 ? 0 : rng_.below(bound); }

  void write(const GrammarElement& element) {
    switch (element.kind) {
      case GrammarElement::Kind::kText:
        sample.text += element.text;
        return;
      case GrammarElement::Kind::kRule:
        expand(element.rule);
        return;
      case GrammarElement::Kind::kDraw:
        draw(element);
        break;
      case GrammarElement::Kind::kReference:
        break;
    }
    const DrawnRow drawn = drawn_[element.variable];
    sample.text += grammar_.tables()[drawn.table].cell(drawn.row, element.column, element.capital);
  }

  void draw(const GrammarElement& element) {
    std::vector<std::size_t> taken;
    for (const std::size_t variable : element.without) taken.push_back(drawn_[variable].row);
    std::sort(taken.begin(), taken.end());
    const std::size_t choices = grammar_.tables()[element.table].rows.size() - taken.size();
    std::size_t row = choose(choices);
    for (const std::size_t other : taken) row += row >= other ? 1 : 0;
    drawn_[element.variable] = {element.table, row};
    sample.bits += std::log2(static_cast<double>(choices));
  }

  const Grammar& grammar_;
  Rng& rng_;
  std::vector<DrawnRow> drawn_;
};

/// Follows the distribution of every variable through the grammar. As no weight depends on what
/// was drawn, the choices that lead to a place are independent of the rows that the variables hold
/// there, and their marginal distributions suffice for sums of expected lengths.
class Expecter {
 public:
  /// Of a variable: probability of [table][row].
  using Marginal = std::vector<std::vector<double>>;

  explicit Expecter(const Grammar& grammar) : grammar_(grammar) {
    Marginal nothing;
    for (const GrammarTable& table : grammar.tables()) nothing.emplace_back(table.rows.size(), 0.0);
    marginals_.assign(grammar.variables(), nothing);
  }

  Grammar::Expectation expand(std::size_t rule_index) {
    const GrammarRule& rule = grammar_.rules()[rule_index];
    if (rule.alternatives.size() == 1) return sequence(rule, rule.alternatives[0]);
    const std::vector<Marginal> before = marginals_;
    std::vector<Marginal> after(before.size(), zero());
    Grammar::Expectation sum;
    for (const GrammarAlternative& alternative : rule.alternatives) {
      const double probability =
          static_cast<double>(alternative.weight) / static_cast<double>(rule.total_weight);
      marginals_ = before;
      const Grammar::Expectation part = sequence(rule, alternative);
      sum.bits += probability * (part.bits - std::log2(probability));
      sum.bytes += probability * part.bytes;
      for (std::size_t v = 0; v < after.size(); ++v) add(after[v], marginals_[v], probability);
    }
    marginals_ = std::move(after);
    return sum;
  }

 private:
  Grammar::Expectation sequence(const GrammarRule& rule, const GrammarAlternative& alternative) {
    Grammar::Expectation sum;
    for (const GrammarElement& element : alternative.elements) {
      if (element.kind == GrammarElement::Kind::kText) {
        sum.bytes += static_cast<double>(element.text.size());
      } else if (element.kind == GrammarElement::Kind::kRule) {
        const Grammar::Expectation part = expand(element.rule);
        sum.bits += part.bits;
        sum.bytes += part.bytes;
      } else {
        if (element.kind == GrammarElement::Kind::kDraw) sum.bits += draw(rule, element);
        sum.bytes += expected_length(rule, element);
      }
    }
    return sum;
  }

  double draw(const GrammarRule& rule, const GrammarElement& element) {
    const std::size_t rows = grammar_.tables()[element.table].rows.size();
    if (element.without.size() >= rows) fail("rule '{}' draws from too small a table", rule.name);
    const double choices = static_cast<double>(rows - element.without.size());
    std::vector<double> probability(rows, 1.0);
    for (const std::size_t other : element.without) {
      // The variables left out hold different rows of this table, so their events add up.
      if (!certain(marginals_[other][element.table])) {
        fail("rule '{}' leaves out a variable that may not hold a row of this table", rule.name);
      }
      for (std::size_t r = 0; r < rows; ++r) probability[r] -= marginals_[other][element.table][r];
    }
    for (double& p : probability) p /= choices;
    marginals_[element.variable] = zero();
    marginals_[element.variable][element.table] = std::move(probability);
    return std::log2(choices);
  }

  double expected_length(const GrammarRule& rule, const GrammarElement& element) const {
    double bytes = 0.0;
    double reached = 0.0;
    const Marginal& marginal = marginals_[element.variable];
    for (std::size_t t = 0; t < marginal.size(); ++t) {
      for (std::size_t r = 0; r < marginal[t].size(); ++r) {
        if (marginal[t][r] == 0.0) continue;
        const auto& table = grammar_.tables()[t];
        bytes += marginal[t][r] *
                 static_cast<double>(table.cell(r, element.column, element.capital).size());
        reached += marginal[t][r];
      }
    }
    if (std::abs(reached - 1.0) > 1e-9) {
      fail("rule '{}' shows '{}' of a variable that may not have been drawn", rule.name,
           element.column);
    }
    return bytes;
  }

  Marginal zero() const {
    Marginal result;
    for (const GrammarTable& table : grammar_.tables()) result.emplace_back(table.rows.size(), 0.0);
    return result;
  }
  static void add(Marginal& sum, const Marginal& part, double factor) {
    for (std::size_t t = 0; t < sum.size(); ++t) {
      for (std::size_t r = 0; r < sum[t].size(); ++r) sum[t][r] += factor * part[t][r];
    }
  }
  static bool certain(const std::vector<double>& probabilities) {
    double sum = 0.0;
    for (const double p : probabilities) sum += p;
    return std::abs(sum - 1.0) < 1e-9;
  }

  const Grammar& grammar_;
  std::vector<Marginal> marginals_;
};

}  // namespace

std::string GrammarTable::cell(std::size_t row, const std::string& column, bool capital) const {
  const auto found = std::find(columns.begin(), columns.end(), column);
  if (found == columns.end()) fail("table '{}' has no column '{}'", name, column);
  std::string text = rows[row][static_cast<std::size_t>(found - columns.begin())];
  if (capital && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

Grammar::Sample Grammar::generate(Rng& rng) const {
  Generator generator(*this, rng);
  generator.expand(start_);
  return std::move(generator.sample);
}

Grammar::Expectation Grammar::expectation() const { return Expecter(*this).expand(start_); }

}  // namespace quest
