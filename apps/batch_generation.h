// quest generate --prompts: a file of prompts, continued side by side.
#pragma once

#include <cstdint>
#include <string>

#include "apps/prompt_file.h"
#include "infer/model_folder.h"
#include "infer/sequences.h"

namespace quest::app {

/// Continues every prompt of the file `path` and prints one JSON object a line, in the order of the
/// prompts. A line that cannot be answered gets an object with "error". `defaults.options` has the
/// tokenizer's end and vocabulary. Returns the exit code: 1 when there was such a line.
int continue_prompts(const std::string& path, const PromptDefaults& defaults,
                     const LoadedModel& model, const SequencesOptions& sizes);

}  // namespace quest::app
