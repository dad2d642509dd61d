// Actor: one consumer in the simulator. It has a few jobs under way, each with its own piece of the region,
// which it poisons after the release: whoever touches it then is found out.

#pragma once

#include <optional>
#include <vector>

#include "payload.h"
#include "world.h"

namespace kvpool::sim {

class Actor {
 public:
  Actor(World& world, uint32_t number, uint64_t seed, uint32_t jobs);

  // Takes completions, then may start something. True if it did anything.
  bool act();
  [[nodiscard]] bool is_done() const;
  // When it would like to act again, though nothing happened.
  [[nodiscard]] Nanos next_time() const;
  [[nodiscard]] bool is_closed() const { return closed_; }
  // Drops what it holds and leaves the pool; what is under way is cancelled.
  void close();
  void check_poison();
  // Retrieves whatever the pool may have, one run after the other, and checks it.
  void retrieve_all();

  struct Counts {
    uint32_t stored_blocks = 0;
    uint32_t retrieved_blocks = 0;
    uint32_t timed_out = 0;
    uint64_t left_in_place = 0;  // segments that retrieves reported where they lie
  };
  [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
  static constexpr uint32_t jobs_max = 4;
  static constexpr uint32_t blocks_max = 12;
  static constexpr size_t job_bytes = 4096 + 12 * 8 * 12 * 1024;

  struct Job {
    bool active = false;
    bool has_result = false;
    bool cancel_sent = false;
    Submission message;
    std::vector<BlockKey> keys;  // of the run, as asked
    uint32_t columns = 0;
    uint32_t seen_progress = 0;
    uint32_t found_blocks = 0;
    std::span<std::byte> memory;
    size_t used_bytes = 0;  // of memory, at its last use
    Nanos started{0};
  };

  // A segment that a retrieve left in pool memory: right as long as the pin is held.
  struct Held {
    PinId pin;
    const std::byte* place;
    uint32_t bytes;
    uint64_t payload;
  };

  bool take_completions();
  void on_result(Job& job, const Completion& completion);
  void on_release(Job& job);
  void check_retrieve(Job& job, const Completion& completion);
  void check_progress(Job& job);
  void check_segment(const Job& job, uint32_t block, uint32_t column, const char* when);
  // Null: it is in its buffer.
  [[nodiscard]] static const std::byte* place_of(const Job& job, uint32_t block, uint32_t column);
  void hold(const Job& job, uint32_t block, uint32_t column);
  void check_held();
  void forget_held(PinId pin);

  bool start_something();
  void choose_run(Job& job, Submission& message);
  void choose_blocks(Job& job, Submission& message, uint32_t chain, uint32_t first, uint32_t blocks) const;
  void start(Job& job, Submission message);
  void start_store(Job& job, Submission message);
  void start_retrieve(Job& job, Submission message);
  void start_with_pin(Job& job, Submission message);
  void start_nonsense(Job& job);
  // Lays keys, addresses and data out in the job's memory.
  void lay_out(Job& job, Submission& message, uint32_t blocks, uint32_t columns, bool fill);
  [[nodiscard]] std::byte* data_of(const Job& job, uint32_t block, uint32_t column) const;
  [[nodiscard]] RegionAddress address(const void* pointer) const { return port_.regions.address_of(pointer); }
  void poison(Job& job) const;

  World& world_;
  Prng prng_;
  ConsumerPort port_;
  std::vector<std::byte> region_;
  std::vector<Job> jobs_;
  std::vector<std::pair<PinId, std::vector<BlockKey>>> pins_;
  std::vector<NamespaceId> pin_namespaces_;
  std::vector<Held> held_;
  uint32_t jobs_left_;
  bool closed_ = false;
  Nanos rest_until_{0};
  Counts counts_;
};

}  // namespace kvpool::sim
