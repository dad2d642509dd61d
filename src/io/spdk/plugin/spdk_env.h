// SpdkEnv: SPDK's environment in this process, and the memory that devices of user space may reach.
//
// It starts once, in a thread of its own, which it pins to a processor, and never ends: SPDK can start once
// in a process. Memory is registered once however many devices ask for it.
//
// Thread: all methods on any thread, one at a time (a lock sees to it), but reaches(), which is of the
// engine. Failure: Results that say what is missing and what to do.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "io/spdk/spdk_plugin.h"

namespace kvpool {

class SpdkEnv {
 public:
  static SpdkEnv& instance();

  [[nodiscard]] Status start(const SpdkEnvironment& wanted);

  // SPDK's own memory, in huge pages; registered with everything.
  [[nodiscard]] Result<std::span<std::byte>> take(uint64_t bytes, int numa_node);
  void give_back(std::span<std::byte> memory);

  // Makes memory that somebody else took reachable for DMA. REQUIRES: it begins on 2 MiB, and up to the next
  // 2 MiB behind it belongs to the same owner.
  [[nodiscard]] Status add_memory(std::span<std::byte> memory);
  void drop_memory(std::span<std::byte> memory);

 private:
  SpdkEnv() = default;
  [[nodiscard]] Status check_wanted(const SpdkEnvironment& wanted) const;
  [[nodiscard]] Status init(const SpdkEnvironment& wanted, bool huge_pages);

  struct Region {
    size_t bytes = 0;
    uint32_t users = 0;
    bool own = false;  // SPDK's, which is registered as long as it lives
  };

  std::mutex mutex_;
  std::optional<SpdkEnvironment> started_;
  bool has_huge_pages_ = false;
  std::map<std::byte*, Region> regions_;
};

// What SPDK said first on this thread since this was asked last, of errors; else empty.
[[nodiscard]] std::string first_spdk_error();

}  // namespace kvpool
