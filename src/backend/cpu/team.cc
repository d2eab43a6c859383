// Team: how its threads tell each other of loops.
#include "backend/cpu/team.h"

#include <omp.h>
#include <strings.h>

#include <cassert>
#include <cstdlib>
#include <exception>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quest {
namespace {

// An order is the number of a loop above its parts, which are an int, so any number of them fits.
constexpr int kPartsBits = 32;
constexpr std::uint64_t kPartsMask = (std::uint64_t{1} << kPartsBits) - 1;

/// About 0.4 ms on a Zen 4; less than a slice of time that another thread would be given.
constexpr int kLooks = 1 << 14;
constexpr int kLooksOfTooMany = 1 << 8;
/// Before a member's share is taken by the first.
constexpr int kPatientLooks = 1 << 6;

/// As OpenMP's threads do where they are told, or where they are more than the cores.
int looks_of(int members) {
  const char* const policy = std::getenv("OMP_WAIT_POLICY");
  if (policy != nullptr && strcasecmp(policy, "passive") == 0) return 0;
  return members > omp_get_num_procs() ? kLooksOfTooMany : kLooks;
}

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

bool Team::Share::take(std::uint64_t loop) {
  std::uint64_t last = taken.load(std::memory_order_relaxed);
  return last < loop && taken.compare_exchange_strong(last, loop, std::memory_order_acq_rel);
}

void Signal::set(std::uint64_t value) {
  // Either this thread sees a sleeper, or the sleeper sees the value.
  value_.store(value, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) value_.notify_all();
}

std::uint64_t Signal::wait_for_change(std::uint64_t old, int looks) {
  for (int look = 0; look < looks; ++look) {
    const std::uint64_t value = value_.load(std::memory_order_acquire);
    if (value != old) return value;
    pause_briefly();
  }
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  value_.wait(old, std::memory_order_seq_cst);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  return value_.load(std::memory_order_acquire);
}

Team::Team(int members, int looks)
    : members_(members),
      looks_(looks),
      shares_(std::make_unique<Share[]>(static_cast<std::size_t>(members))) {}

void Team::run(int threads, const std::function<void()>& body) {
  if (threads <= 1 || omp_in_parallel() != 0) return body();
  std::unique_ptr<Team> team;
  std::exception_ptr thrown;
#pragma omp parallel num_threads(threads)
  {
#pragma omp single
    team.reset(new Team(omp_get_num_threads(), looks_of(omp_get_num_threads())));
    const int member = omp_get_thread_num();
    if (member > 0) {
      team->follow(member);
    } else {
      try {
        team->lead(body);
      } catch (...) {
        thrown = std::current_exception();
      }
    }
  }
  if (thrown) std::rethrow_exception(thrown);
}

void Team::lead(const std::function<void()>& body) {
  struct Led {
    Team* team;
    explicit Led(Team* led) : team(led) { ready_ = team; }
    ~Led() {
      ready_ = nullptr;
      team->order_.signal.set(++team->loops_ << kPartsBits);
    }
  };
  const Led led(this);
  body();
}

void Team::follow(int member) {
  std::uint64_t order = 0;
  for (;;) {
    order = order_.signal.wait_for_change(order, looks_);
    const int parts = static_cast<int>(order & kPartsMask);
    if (parts == 0) return;
    // Once this member has taken its share, the order stays as it is until that is done.
    Share& share = shares_[static_cast<std::size_t>(member)];
    if (member >= parts || !share.take(order >> kPartsBits)) continue;
    run_parts_of(member, order_.loop, parts);
    share.done.set(order >> kPartsBits);
  }
}

void Team::run_loop(const Loop& loop, int parts) {
  assert(ready_ == this && parts > 0);
  ready_ = nullptr;
  order_.loop = loop;
  order_.signal.set(++loops_ << kPartsBits | static_cast<std::uint64_t>(parts));
  run_parts_of(0, loop, parts);
  for (int member = 1; member < members_ && member < parts; ++member) {
    finish_share(shares_[static_cast<std::size_t>(member)], member, parts);
  }
  ready_ = this;
}

// A member that has not begun may have no core, on a busy machine: its share is not waited for.
void Team::finish_share(Share& share, int member, int parts) {
  std::uint64_t done = 0;  // members without a part in a loop have done an earlier one
  for (int look = 0; look < kPatientLooks; ++look) {
    done = share.done.value();
    if (done == loops_) return;
    pause_briefly();
  }
  if (share.take(loops_)) return run_parts_of(member, order_.loop, parts);
  while (done != loops_) done = share.done.wait_for_change(done, looks_);
}

void Team::run_parts_of(int member, const Loop& loop, int parts) const {
  for (int i = member; i < parts; i += members_) loop.part(loop.context, i);
}

}  // namespace quest
