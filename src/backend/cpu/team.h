// Team: threads that stay together while many short loops run, and are told of each by a line of
// memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace quest {

/// A number that one thread sets and others wait for.
class Signal {
 public:
  /// Wakes those who sleep.
  void set(std::uint64_t value);
  std::uint64_t value() const { return value_.load(std::memory_order_acquire); }
  /// Waits until the number is not `old`, and returns it: looks `looks` times, then sleeps.
  std::uint64_t wait_for_change(std::uint64_t old, int looks);

 private:
  std::atomic<std::uint64_t> value_{0};
  std::atomic<int> sleepers_{0};
};

/// The threads of one OpenMP region: the first runs a body, the others wait for its loops. What an
/// OpenMP region of its own costs a loop, lines that pass between cores, is here one line to begin
/// and one to end; and the first does the share of a thread that has not begun.
class Team {
 public:
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  /// Runs `body` on the calling thread, with up to `threads` - 1 others for its loops, and throws
  /// what it throws. Within the body of a team it uses that one; within a loop, or a region of
  /// OpenMP, it runs alone.
  static void run(int threads, const std::function<void()>& body);

  /// The team that would run a loop of the calling thread: null outside of a body, and within its
  /// loops.
  static Team* ready() { return ready_; }

  /// Calls part(i) for every i < parts, at least one, on the threads in turn, and returns after all
  /// of them. A part that throws ends the program, as in an OpenMP region: other threads may still
  /// be at theirs.
  template <typename Part>
  void for_each(int parts, const Part& part) noexcept {
    const auto call = [](const void* context, int i) { (*static_cast<const Part*>(context))(i); };
    run_loop({call, &part}, parts);
  }

 private:
  struct Loop {
    void (*part)(const void* context, int i);
    const void* context;
  };

  // What the others read of the first member's: one line of memory.
  struct alignas(64) Order {
    Signal signal;  // the number of the loop and its parts; no parts: the end
    Loop loop{};
  };
  // The last loop in which a member had parts: taken, by it or by the first member, and done by it.
  struct alignas(64) Share {
    std::atomic<std::uint64_t> taken{0};
    Signal done;
    bool take(std::uint64_t loop);
  };

  Team(int members, int looks);
  void run_loop(const Loop& loop, int parts);
  void run_parts_of(int member, const Loop& loop, int parts) const;
  void lead(const std::function<void()>& body);
  void follow(int member);
  void finish_share(Share& share, int member, int parts);

  static inline thread_local Team* ready_ = nullptr;

  Order order_;
  const int members_;
  const int looks_;                        // before a thread sleeps
  const std::unique_ptr<Share[]> shares_;  // of each member
  alignas(64) std::uint64_t loops_ = 0;    // that began
};

}  // namespace quest
