// Stopwatch: how long the kernels of a backend take, told without waiting for each.
#pragma once

#include <cstddef>

namespace quest {

class Stopwatch {
 public:
  virtual ~Stopwatch() = default;

  /// Marks the moment at which everything that the backend was asked for so far has ended. Marks
  /// are counted from 0.
  virtual void mark() = 0;
  /// Seconds from one mark to another; the backend has been synchronized since.
  virtual double seconds(std::size_t from, std::size_t to) const = 0;
  /// Forgets all marks.
  virtual void clear() = 0;
};

}  // namespace quest
