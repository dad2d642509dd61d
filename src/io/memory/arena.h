// Arena: all pool memory and staging, in huge pages where the system gives them, faulted in before it is
// handed out.
//
// It consists of parts, each one contiguous range of addresses on a 2 MiB boundary. Parts get huge pages in
// the order in which they are listed, so staging and consumer buffers come first, memory devices after
// them. Each part is made chunk by chunk, each chunk of the best kind that is to be had:
//   hugetlb    a memfd of 2 MiB pages, from those that the administrator set aside
//   shared     a memfd, where the kernel gives shared memory transparent huge pages
//   anonymous  private memory with MADV_HUGEPAGE: no other process can map it
// Or all of it is foreign: from a MemorySource that a device needs.
// No kernel setting is changed.
//
// Thread: create() runs threads of its own and ends them; afterwards the object is constant and any thread
// may read it. Failure: create() says how much was asked for, how much there is and what to do; it looks
// before it faults, so that the out-of-memory killer is not met. It takes seconds for many gigabytes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "io/memory/memory_source.h"

namespace kvpool {

struct ArenaPart {
  std::string name;  // for messages
  uint64_t bytes = 0;
  int numa_node = -1;  // -1: the process's own policy
};

struct ArenaOptions {
  std::vector<ArenaPart> parts;  // the first ones get huge pages first
  // Whose memory it is instead of the arena's own kinds, each part in one piece; outlives the arena.
  MemorySource* source = nullptr;
  uint32_t threads = 0;  // that fault memory in; 0: one a core, at most 16
};

enum class ArenaBacking : uint8_t { hugetlb, shared, anonymous, foreign };

// A piece of a part, of one kind. fd and fd_offset_bytes let another process map it; fd is -1 if none can.
struct ArenaChunk {
  std::byte* base = nullptr;
  uint64_t bytes = 0;
  ArenaBacking backing = ArenaBacking::anonymous;
  int fd = -1;
  uint64_t fd_offset_bytes = 0;
};

// What was obtained, as the kernel says (/proc/self/smaps).
struct ArenaReport {
  uint64_t bytes = 0;         // of all parts, rounded up to 2 MiB each
  uint64_t huge_bytes = 0;    // of them in pages of 2 MiB or more
  uint64_t shared_bytes = 0;  // of them mappable by another process
};

class Arena {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Arena>> create(const ArenaOptions& options);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  [[nodiscard]] size_t parts() const { return parts_.size(); }
  // Exactly the bytes asked for, zeroed. REQUIRES: index < parts().
  [[nodiscard]] std::span<std::byte> part(size_t index) const { return parts_[index].memory; }
  [[nodiscard]] std::span<const ArenaChunk> chunks(size_t index) const { return parts_[index].chunks; }
  // All parts, as Device::start() wants them: the rest of a last huge page belongs to the part too.
  [[nodiscard]] std::vector<std::span<std::byte>> regions() const;
  [[nodiscard]] const ArenaReport& report() const { return report_; }

 private:
  struct Part {
    std::string name;
    std::span<std::byte> memory;   // as asked
    std::span<std::byte> mapping;  // rounded up
    int numa_node = -1;
    int hugetlb_fd = -1;
    int shared_fd = -1;
    std::vector<ArenaChunk> chunks;
  };

  Arena() = default;
  [[nodiscard]] Status map(const ArenaOptions& options);
  [[nodiscard]] Status reserve(const ArenaPart& asked);
  [[nodiscard]] Status map_chunks(Part& part);
  [[nodiscard]] Status take_foreign(const ArenaPart& asked);
  [[nodiscard]] Status map_chunk(Part& part, ArenaChunk& chunk, ArenaBacking best);
  [[nodiscard]] Status fault_in(uint32_t threads);
  [[nodiscard]] Status fault_in_chunk(Part& part, ArenaChunk& chunk);
  void measure();

  MemorySource* source_ = nullptr;
  std::vector<Part> parts_;
  ArenaReport report_;
};

}  // namespace kvpool
