// The text of the story grammar.
#pragma once

#include <string_view>

namespace quest {

/// A grammar in the notation of grammar.h.
extern const std::string_view kStorySource;

}  // namespace quest
