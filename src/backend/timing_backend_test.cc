// TimingBackend and Roofline: what is booked for a kernel, and the bound that follows.
#include "backend/timing_backend.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "backend/kernel_cases.h"
#include "core/error.h"

namespace quest {
namespace {

Roofline two_levels() {
  Roofline roofline;
  roofline.units[static_cast<std::size_t>(Unit::kF32)] = {"f32 FMA", 1e9};
  roofline.levels = {{"L2", 1000, 1e6}, {"memory", 0, 1e3}};
  return roofline;
}

TEST(Roofline, TheSlowerOfOperationsAndBytesBounds) {
  const Roofline roofline = two_levels();
  const Roofline::Bound products = roofline.bound({Unit::kF32, 2e9, 500});
  EXPECT_EQ(products.name, "f32 FMA");
  EXPECT_DOUBLE_EQ(products.seconds, 2.0);
  const Roofline::Bound cached = roofline.bound({Unit::kF32, 1, 500});
  EXPECT_EQ(cached.name, "L2");
  EXPECT_DOUBLE_EQ(cached.seconds, 500 / 1e6);
}

TEST(Roofline, WhatNoLevelHoldsIsReadFromTheLast) {
  const Roofline::Bound bound = two_levels().bound({Unit::kNone, 0, 1001});
  EXPECT_EQ(bound.name, "memory");
  EXPECT_DOUBLE_EQ(bound.seconds, 1001 / 1e3);
}

TEST(Roofline, AUnitWithoutARateBoundsNothing) {
  EXPECT_EQ(two_levels().bound({Unit::kInt8, 1e20, 10}).name, "L2");
}

TEST(TimingBackend, BooksOperationsAndTheBoundOfAProductUnderItsKind) {
  const auto reference = make_reference_backend();
  TimingBackend backend(*reference);
  backend.set_roofline(two_levels());
  const OwnedTensor x({3, 5}, DType::kF32), w({4, 5}, DType::kF32), y({3, 4}, DType::kF32);
  backend.matmul(y, x, w, Write::kAdd);
  const auto product = static_cast<std::size_t>(Work::kForwardProduct);
  EXPECT_EQ(backend.times().operations[product], 2.0 * 3 * 4 * 5);
  // 15 and 20 values are read, 12 read and written.
  EXPECT_DOUBLE_EQ(backend.times().bound_seconds[product], 4.0 * (15 + 20 + 2 * 12) / 1e6);
  EXPECT_DOUBLE_EQ(backend.times().total_bound_seconds(), backend.times().bound_seconds[product]);
  backend.reset_times();
  EXPECT_EQ(backend.times().total_bound_seconds(), 0);
}

// A device that works while its caller goes on: its marks have times once it has been waited for.
class QueueingBackend : public TimingBackend {
 public:
  explicit QueueingBackend(Backend& inner) : TimingBackend(inner) {}
  void synchronize() override { ++waits; }
  void zero(Tensor x) override {
    if (broken) fail("broken");
    TimingBackend::zero(x);
  }
  std::unique_ptr<Stopwatch> make_stopwatch() override {
    struct Marks : Stopwatch {
      explicit Marks(QueueingBackend& of) : backend(of) {}
      void mark() override { ++backend.marks; }
      double seconds(std::size_t from, std::size_t to) const override {
        EXPECT_GE(backend.waits, 1) << "read before the device was waited for";
        EXPECT_LT(to, backend.marks);
        return static_cast<double>(to - from) * static_cast<double>(to);
      }
      void clear() override { backend.marks = 0; }
      QueueingBackend& backend;
    };
    return std::make_unique<Marks>(*this);
  }
  int waits = 0;
  std::size_t marks = 0;
  bool broken = false;
};

TEST(TimingBackend, WaitsForTheDeviceOnlyWhenTimesAreAskedFor) {
  const auto reference = make_reference_backend();
  QueueingBackend device(*reference);
  TimingBackend backend(static_cast<Backend&>(device));  // not a copy of it
  const OwnedTensor x({3, 5}, DType::kF32), w({4, 5}, DType::kF32), y({3, 4}, DType::kF32);
  backend.zero(x);
  backend.reset_times();
  backend.matmul(y, x, w, Write::kSet);
  backend.zero(x);
  backend.matmul(y, x, w, Write::kSet);
  EXPECT_EQ(device.waits, 0);
  const WorkTimes& times = backend.times();
  EXPECT_EQ(device.waits, 1);
  EXPECT_EQ(times.seconds[static_cast<std::size_t>(Work::kForwardProduct)], 1.0 + 5.0);
  EXPECT_EQ(times.seconds[static_cast<std::size_t>(Work::kMove)], 3.0);
}

TEST(TimingBackend, MarksOfAnyNumberOfKernelsTakeBoundedMemory) {
  const auto reference = make_reference_backend();
  QueueingBackend device(*reference);
  TimingBackend backend(static_cast<Backend&>(device));
  const OwnedTensor x({1, 1}, DType::kF32);
  device.waits = 1;  // marks can be read
  std::size_t most = 0;
  for (int i = 0; i < 20000; ++i) {
    backend.zero(x);
    most = std::max(most, device.marks);
  }
  EXPECT_LE(most, 2u * 4096);
  EXPECT_GT(backend.times().seconds[static_cast<std::size_t>(Work::kMove)], 0);
}

// The marks of what came before and after it keep their places.
TEST(TimingBackend, AKernelThatThrowsIsNotBooked) {
  const auto reference = make_reference_backend();
  QueueingBackend device(*reference);
  TimingBackend backend(static_cast<Backend&>(device));
  const OwnedTensor x({3, 5}, DType::kF32);
  device.broken = true;
  EXPECT_THROW(backend.zero(x), Error);
  device.broken = false;
  backend.zero(x);
  // Marks 1 and 2: see QueueingBackend.
  EXPECT_EQ(backend.times().seconds[static_cast<std::size_t>(Work::kMove)], 1.0 * 2.0);
}

// A device whose recordings call their bodies once.
class RecordingBackend : public TimingBackend {
 public:
  explicit RecordingBackend(Backend& inner) : TimingBackend(inner) {}
  std::unique_ptr<Recording> make_recording() override {
    struct Once : Recording {
      void run(const std::function<void()>& body) override {
        if (!called) body();
        called = true;
      }
      bool replays() const override { return true; }
      bool called = false;
    };
    return std::make_unique<Once>();
  }
};

TEST(TimingBackend, RecordingsAreTheDevicesUnlessTimesAreKept) {
  const auto reference = make_reference_backend();
  RecordingBackend device(*reference);
  TimingBackend backend(static_cast<Backend&>(device));
  const OwnedTensor x({3, 5}, DType::kF32);
  const auto recording = backend.make_recording();
  int calls = 0;
  const auto body = [&] {
    ++calls;
    backend.zero(x);
  };
  for (int run = 0; run < 3; ++run) recording->run(body);
  EXPECT_EQ(calls, 3);
  backend.reset_times();
  backend.keep_times(false);
  for (int run = 0; run < 3; ++run) recording->run(body);
  EXPECT_EQ(calls, 4);
  EXPECT_EQ(backend.times().total_seconds(), 0.0);
  backend.keep_times(true);
  recording->run(body);
  EXPECT_EQ(calls, 5);
  EXPECT_GT(backend.times().total_seconds(), 0.0);
}

TEST(TimingBackend, KeepsTimesOfWhatATimingBackendWouldReplay) {
  const auto reference = make_reference_backend();
  RecordingBackend device(*reference);
  TimingBackend inner(static_cast<Backend&>(device));
  inner.keep_times(false);
  TimingBackend outer(static_cast<Backend&>(inner));
  const auto recording = outer.make_recording();
  int calls = 0;
  for (int run = 0; run < 2; ++run) recording->run([&] { ++calls; });
  EXPECT_EQ(calls, 2);
}

// A device whose recordings do something about every run.
class PreparingBackend : public TimingBackend {
 public:
  explicit PreparingBackend(Backend& inner) : TimingBackend(inner) {}
  std::unique_ptr<Recording> make_recording() override {
    struct Prepared : Recording {
      explicit Prepared(int& so_far) : count(so_far) {}
      void run(const std::function<void()>& body) override {
        ++count;
        body();
      }
      int& count;
    };
    return std::make_unique<Prepared>(runs);
  }
  int runs = 0;
};

TEST(TimingBackend, RecordingsThatReplayNothingAreTheDevicesWhileTimesAreKeptToo) {
  const auto reference = make_reference_backend();
  PreparingBackend device(*reference);
  TimingBackend backend(static_cast<Backend&>(device));
  const OwnedTensor x({3, 5}, DType::kF32);
  backend.make_recording()->run([&] { backend.zero(x); });
  EXPECT_EQ(device.runs, 1);
  EXPECT_GT(backend.times().total_seconds(), 0.0);
}

TEST(TimingBackend, ARooflineBoundsWhatComesAfterIt) {
  const auto reference = make_reference_backend();
  TimingBackend backend(*reference);
  const OwnedTensor x({3, 5}, DType::kF32);
  backend.zero(x);
  backend.set_roofline(two_levels());
  EXPECT_EQ(backend.times().total_bound_seconds(), 0);
}

TEST(TimingBackend, WithoutARooflineThereAreNoBounds) {
  const auto reference = make_reference_backend();
  TimingBackend backend(*reference);
  const OwnedTensor x({3, 5}, DType::kF32);
  backend.zero(x);
  EXPECT_EQ(backend.times().total_bound_seconds(), 0);
}

}  // namespace
}  // namespace quest
