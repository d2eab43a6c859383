// Recording: kernels that are asked for again and again in the same order, and told to a device
// once.
#pragma once

#include <functional>

namespace quest {

class Recording {
 public:
  virtual ~Recording() = default;

  /// Runs `body`, or what it asked for in an earlier run: it may not be called at all, so it has no
  /// effects but on tensors. In every run it would ask for the same kernels, of the same tensors
  /// and numbers; what differs from run to run lies in tensors, set before (by `copy`, which does
  /// not wait for a small one). It copies nothing from or to the host, allocates nothing and does
  /// not wait. The tensors outlive the recording's last run.
  virtual void run(const std::function<void()>& body) { body(); }
  /// Whether `run` may do what the body asked for in an earlier run without calling it.
  virtual bool replays() const { return false; }
};

}  // namespace quest
