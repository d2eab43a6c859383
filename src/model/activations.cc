// Names of the ways to save memory.
#include "model/activations.h"

#include "core/error.h"

namespace quest {

std::string_view recompute_name(Recompute recompute) {
  switch (recompute) {
    case Recompute::kNone:
      return "none";
    case Recompute::kNorm:
      return "norm";
    case Recompute::kBlock:
      break;
  }
  return "block";
}

Recompute recompute_from_name(std::string_view name) {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kNorm, Recompute::kBlock}) {
    if (recompute_name(recompute) == name) return recompute;
  }
  fail("there is no recompute '{}'; use none, norm or block", name);
}

}  // namespace quest
