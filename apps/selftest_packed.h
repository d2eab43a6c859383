// Known answers of a tiny packed model.
#pragma once

#include "apps/selftest_checks.h"

namespace quest::app {

/// The logits of a model in 1, 2, 3, 4 and 8 bits whose codes are made up here: after a prompt in
/// one pass, and token by token with keys kept.
CheckResult check_packed_model(Backend& backend);

}  // namespace quest::app
