// The roofline of the device that a backend works on, measured now.
#pragma once

#include "backend/backend.h"
#include "backend/roofline.h"

namespace quest::app {

/// What the kernels of `backend` are bound by. Of a CPU its units and caches (cpu_roofline); of
/// another device the rates of its own large products, which stand for the peaks of its units, and
/// of copies in its memory, bytes read and bytes written.
Roofline measure_roofline(Backend& backend);

}  // namespace quest::app
