// The synthetic corpus: short stories with a known entropy.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "data/synth/grammar.h"

namespace quest {

/// The grammar of the stories. No text has two derivations (a test proves it), so the entropy of
/// the choices is the entropy of the text.
const Grammar& story_grammar();

/// Story number `index` of the corpus of `seed`.
Grammar::Sample story(std::uint64_t seed, std::uint32_t index);

/// What `synth_corpus` wrote, and what the grammar says about all corpora.
struct SynthReport {
  std::int64_t bytes = 0;
  std::int64_t stories = 0;
  double bits_per_byte = 0.0;    ///< Exact entropy rate: no model can predict stories better.
  double bits_per_story = 0.0;   ///< Exact entropy of a story.
  double bytes_per_story = 0.0;  ///< Exact expected size of a story.
};

/// Writes whole stories to `out`, a blank line after each, until there are at least `min_bytes`.
/// Streams, and writes atomically. The same seed gives the same text, and a longer corpus begins
/// with the shorter one. `on_progress`, where given, learns the share that is written; what it
/// throws leaves nothing behind. Throws Error when the file cannot be written.
SynthReport synth_corpus(const std::filesystem::path& out, std::int64_t min_bytes,
                         std::uint64_t seed, const std::function<void(double)>& on_progress = {});

}  // namespace quest
