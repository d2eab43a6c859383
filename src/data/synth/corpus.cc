// Writing of the synthetic corpus.
#include "data/synth/corpus.h"

#include "core/file.h"
#include "data/synth/stories.h"

namespace quest {

const Grammar& story_grammar() {
  static const Grammar grammar(kStorySource);
  return grammar;
}

Grammar::Sample story(std::uint64_t seed, std::uint32_t index) {
  Rng rng(seed, RngPurpose::kCorpus, index);
  return story_grammar().generate(rng);
}

SynthReport synth_corpus(const std::filesystem::path& out, std::int64_t min_bytes,
                         std::uint64_t seed, const std::function<void(double)>& on_progress) {
  const Grammar::Expectation expected = story_grammar().expectation();
  SynthReport report;
  report.bits_per_story = expected.bits;
  report.bytes_per_story = expected.bytes;
  report.bits_per_byte = expected.bits / expected.bytes;
  AtomicFile file(out);
  while (report.bytes < min_bytes) {
    if (on_progress) {
      on_progress(static_cast<double>(report.bytes) / static_cast<double>(min_bytes));
    }
    const Grammar::Sample sample = story(seed, static_cast<std::uint32_t>(report.stories));
    file.write(sample.text);
    report.bytes += static_cast<std::int64_t>(sample.text.size());
    ++report.stories;
  }
  file.commit();
  return report;
}

}  // namespace quest
