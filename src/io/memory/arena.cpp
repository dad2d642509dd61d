#include "io/memory/arena.h"

#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "base/units.h"
#include "io/memory/available_memory.h"

namespace kvpool {
namespace {

constexpr uint64_t huge_page_bytes = 2ULL << 20;
constexpr uint64_t small_page_bytes = 4096;
constexpr uint64_t chunk_bytes_max = 64ULL << 20;
// Left to everybody else: page tables, the rest of this process, other programs.
constexpr uint64_t headroom_bytes = 64ULL << 20;
constexpr unsigned memfd_huge_2mib = 21U << 26;

uint64_t round_up(uint64_t bytes) {
  return (bytes + huge_page_bytes - 1) / huge_page_bytes * huge_page_bytes;
}

// Whether MADV_HUGEPAGE on a memfd gets huge pages; the mode in force stands in brackets.
bool shared_memory_gets_huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::string word;
  while (file >> word) {
    if (word == "[always]" || word == "[within_size]" || word == "[advise]" || word == "[force]") return true;
  }
  return false;
}

Status check_nodes(const ArenaOptions& options) {
  const std::vector<int> nodes = numa_nodes();
  for (const ArenaPart& part : options.parts) {
    if (part.numa_node < 0 || std::find(nodes.begin(), nodes.end(), part.numa_node) != nodes.end()) continue;
    return fail(Errc::invalid_argument,
                fmt::format("{}: there is no NUMA node {} with memory on this machine; there is {}",
                            part.name, part.numa_node, fmt::join(nodes, ", ")));
  }
  return {};
}

Status check_fits(uint64_t asked, uint64_t hugetlb, uint64_t available, const std::string& where) {
  const uint64_t ordinary = asked - std::min(asked, hugetlb);
  if (ordinary == 0 || (ordinary <= available && available - ordinary >= headroom_bytes)) return {};
  return fail(
      Errc::system,
      fmt::format("{} of memory asked for, {} available on {} ({} of it set aside as huge pages, {} "
                  "kept free); make the memory devices, `staging` or `buffers` smaller, or free memory",
                  format_bytes(asked), format_bytes(available + hugetlb), where, format_bytes(hugetlb),
                  format_bytes(headroom_bytes)));
}

Status check_memory(const ArenaOptions& options) {
  uint64_t asked = 0;
  std::vector<int> nodes;
  for (const ArenaPart& part : options.parts) {
    if (part.bytes == 0) return fail(Errc::invalid_argument, fmt::format("{}: its size is zero", part.name));
    if (part.bytes > UINT64_MAX / 4 - asked) {
      return fail(Errc::invalid_argument, fmt::format("{}: its size is absurd", part.name));
    }
    asked += round_up(part.bytes);
    if (part.numa_node >= 0) nodes.push_back(part.numa_node);
  }
  if (Status fits = check_fits(asked, free_hugetlb_bytes(-1), available_memory_bytes(), "this machine");
      !fits) {
    return fits;
  }
  // A node that runs out under a binding policy ends in the out-of-memory killer too.
  for (const int node : nodes) {
    uint64_t asked_of_node = 0;
    for (const ArenaPart& part : options.parts) {
      if (part.numa_node == node) asked_of_node += round_up(part.bytes);
    }
    if (Status fits = check_fits(asked_of_node, free_hugetlb_bytes(node),
                                 available_memory_bytes_of_node(node), fmt::format("NUMA node {}", node));
        !fits) {
      return fits;
    }
  }
  return {};
}

Status bind_to_node(const std::string& name, const ArenaChunk& chunk, int node) {
  if (node < 0) return {};
  constexpr size_t bits = 8 * sizeof(unsigned long);
  std::array<unsigned long, 1024 / bits> mask{};
  KVPOOL_ASSERT(static_cast<size_t>(node) < mask.size() * bits);
  mask[static_cast<size_t>(node) / bits] |= 1UL << (static_cast<size_t>(node) % bits);
  // The kernel takes one bit less than it is told.
  if (syscall(SYS_mbind, chunk.base, chunk.bytes, MPOL_BIND, mask.data(), mask.size() * bits + 1, 0) == 0) {
    return {};
  }
  return fail_errno(errno, fmt::format("{}: memory cannot be bound to NUMA node {} (a container may forbid "
                                       "mbind or that node)",
                                       name, node));
}

// Faults every page in, writable. 0 or an errno value.
int populate(const ArenaChunk& chunk) {
  while (madvise(chunk.base, chunk.bytes, MADV_POPULATE_WRITE) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    // Kernels before 5.14. Touching is no way for hugetlb: a page that is not there would be a SIGBUS.
    if (errno != EINVAL || chunk.backing == ArenaBacking::hugetlb) return errno;
    for (uint64_t at = 0; at < chunk.bytes; at += small_page_bytes) {
      *const_cast<volatile std::byte*>(chunk.base + at) = std::byte{0};
    }
    return 0;
  }
  return 0;
}

int make_memfd(const std::string& name, uint64_t bytes, unsigned flags) {
  const int fd = memfd_create(("kvpool-" + name).substr(0, 200).c_str(), MFD_CLOEXEC | flags);
  if (fd >= 0 && ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

// Bytes in huge pages of the mappings that start in one of `ranges`.
uint64_t huge_bytes_of(const std::vector<std::span<std::byte>>& ranges) {
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool ours = false;
  uint64_t huge_kib = 0;
  while (std::getline(smaps, line)) {
    uint64_t first = 0;
    uint64_t last = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " ", &first, &last) == 2) {
      ours = std::any_of(ranges.begin(), ranges.end(), [&](const std::span<std::byte>& range) {
        const auto base = reinterpret_cast<uintptr_t>(range.data());
        return first >= base && first < base + range.size();
      });
      continue;
    }
    if (!ours) continue;
    for (const char* key : {"AnonHugePages:", "ShmemPmdMapped:", "Private_Hugetlb:", "Shared_Hugetlb:"}) {
      if (line.starts_with(key)) huge_kib += std::strtoull(line.c_str() + std::strlen(key), nullptr, 10);
    }
  }
  return huge_kib * 1024;
}

}  // namespace

Result<std::unique_ptr<Arena>> Arena::create(const ArenaOptions& options) {
  if (Status nodes = check_nodes(options); !nodes) return tl::unexpected(nodes.error());
  if (options.source == nullptr) {
    if (Status memory = check_memory(options); !memory) return tl::unexpected(memory.error());
  }
  std::unique_ptr<Arena> arena(new Arena);
  if (Status mapped = arena->map(options); !mapped) return tl::unexpected(mapped.error());
  arena->measure();
  return arena;
}

Arena::~Arena() {
  for (const Part& part : parts_) {
    if (source_ != nullptr) {
      source_->give_back(part.mapping);
      continue;
    }
    munmap(part.mapping.data(), part.mapping.size());
    if (part.hugetlb_fd >= 0) close(part.hugetlb_fd);
    if (part.shared_fd >= 0) close(part.shared_fd);
  }
}

std::vector<std::span<std::byte>> Arena::regions() const {
  std::vector<std::span<std::byte>> all;
  for (const Part& part : parts_) all.push_back(part.memory);
  return all;
}

Status Arena::map(const ArenaOptions& options) {
  parts_.reserve(options.parts.size());
  source_ = options.source;
  for (const ArenaPart& asked : options.parts) {
    if (source_ == nullptr) break;
    if (Status taken = take_foreign(asked); !taken) return taken;
  }
  if (source_ != nullptr) return {};
  for (const ArenaPart& asked : options.parts) {
    if (Status reserved = reserve(asked); !reserved) return reserved;
    if (Status mapped = map_chunks(parts_.back()); !mapped) return mapped;
  }
  return fault_in(options.threads);
}

Status Arena::take_foreign(const ArenaPart& asked) {
  if (asked.bytes == 0) return fail(Errc::invalid_argument, fmt::format("{}: its size is zero", asked.name));
  const auto memory = source_->take(round_up(asked.bytes), asked.numa_node);
  if (!memory) return fail(memory.error().code, fmt::format("{}: {}", asked.name, memory.error().message));
  const ArenaChunk chunk{.base = memory->data(), .bytes = memory->size(), .backing = ArenaBacking::foreign};
  madvise(chunk.base, chunk.bytes, MADV_DONTDUMP);
  madvise(chunk.base, chunk.bytes, MADV_DONTFORK);
  parts_.push_back({.name = asked.name,
                    .memory = memory->first(asked.bytes),
                    .mapping = *memory,
                    .numa_node = asked.numa_node,
                    .hugetlb_fd = -1,
                    .shared_fd = -1,
                    .chunks = {chunk}});
  return {};
}

// Takes a range of addresses that starts on a huge page.
Status Arena::reserve(const ArenaPart& asked) {
  const uint64_t bytes = round_up(asked.bytes);
  void* const range =
      mmap(nullptr, bytes + huge_page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) {
    return fail_errno(
        errno, fmt::format("{}: no {} of addresses (see ulimit -v)", asked.name, format_bytes(asked.bytes)));
  }
  auto* const first = static_cast<std::byte*>(range);
  auto* const base =
      first + (huge_page_bytes - reinterpret_cast<uintptr_t>(range) % huge_page_bytes) % huge_page_bytes;
  if (base > first) munmap(first, static_cast<size_t>(base - first));
  munmap(base + bytes, static_cast<size_t>(first + huge_page_bytes - base));

  Part part;
  part.name = asked.name;
  part.memory = {base, asked.bytes};
  part.mapping = {base, bytes};
  part.numa_node = asked.numa_node;
  part.hugetlb_fd = make_memfd(asked.name, bytes, MFD_HUGETLB | memfd_huge_2mib);
  if (shared_memory_gets_huge_pages()) part.shared_fd = make_memfd(asked.name, bytes, 0);
  parts_.push_back(std::move(part));
  return {};
}

Status Arena::map_chunks(Part& part) {
  uint64_t done = 0;
  while (done < part.mapping.size()) {
    const uint64_t left = std::min(part.mapping.size() - done, chunk_bytes_max);
    const uint64_t hugetlb = part.hugetlb_fd < 0 ? 0 : std::min(left, free_hugetlb_bytes(part.numa_node));
    ArenaChunk chunk;
    chunk.base = part.mapping.data() + done;
    chunk.bytes = hugetlb > 0 ? hugetlb : left;
    const ArenaBacking best = hugetlb > 0 ? ArenaBacking::hugetlb : ArenaBacking::shared;
    if (Status mapped = map_chunk(part, chunk, best); !mapped) return mapped;
    part.chunks.push_back(chunk);
    done += chunk.bytes;
  }
  return {};
}

// Maps the chunk as `best`, or as the next kind that works. A hugetlb mapping reserves its pages here.
Status Arena::map_chunk(Part& part, ArenaChunk& chunk, ArenaBacking best) {
  int error = 0;
  for (const ArenaBacking backing : {ArenaBacking::hugetlb, ArenaBacking::shared, ArenaBacking::anonymous}) {
    if (backing < best) continue;
    const bool anonymous = backing == ArenaBacking::anonymous;
    const int fd = backing == ArenaBacking::hugetlb ? part.hugetlb_fd : part.shared_fd;
    if (!anonymous && fd < 0) continue;
    const auto offset = anonymous ? 0 : static_cast<uint64_t>(chunk.base - part.mapping.data());
    void* const mapped = mmap(chunk.base, chunk.bytes, PROT_READ | PROT_WRITE,
                              MAP_FIXED | (anonymous ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED),
                              anonymous ? -1 : fd, static_cast<off_t>(offset));
    if (mapped == MAP_FAILED) {
      error = errno;
      continue;
    }
    chunk.backing = backing;
    chunk.fd = anonymous ? -1 : fd;
    chunk.fd_offset_bytes = offset;
    if (backing != ArenaBacking::hugetlb) madvise(chunk.base, chunk.bytes, MADV_HUGEPAGE);
    // A core file of the pool would be as large as it, and hold its users' text. A forked child that wrote
    // would part these pages from those that devices were told to use.
    madvise(chunk.base, chunk.bytes, MADV_DONTDUMP);
    madvise(chunk.base, chunk.bytes, MADV_DONTFORK);
    return bind_to_node(part.name, chunk, part.numa_node);
  }
  return fail_errno(error, fmt::format("{}: no memory for {}", part.name, format_bytes(part.mapping.size())));
}

Status Arena::fault_in(uint32_t threads) {
  std::vector<std::pair<Part*, ArenaChunk*>> work;
  for (Part& part : parts_) {
    for (ArenaChunk& chunk : part.chunks) work.emplace_back(&part, &chunk);
  }
  if (threads == 0) threads = std::clamp(std::thread::hardware_concurrency(), 1U, 16U);
  threads = static_cast<uint32_t>(std::min<size_t>(threads, work.size()));
  std::atomic<size_t> next{0};
  std::vector<Status> outcomes(threads);
  std::vector<std::thread> workers;
  for (uint32_t i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] {
      for (size_t at = next++; at < work.size() && outcomes[i]; at = next++) {
        outcomes[i] = fault_in_chunk(*work[at].first, *work[at].second);
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  for (Status& outcome : outcomes) {
    if (!outcome) return std::move(outcome);
  }
  return {};
}

Status Arena::fault_in_chunk(Part& part, ArenaChunk& chunk) {
  int error = populate(chunk);
  if (error != 0 && chunk.backing == ArenaBacking::hugetlb) {
    // Reserved, and yet not to be had: a control group's limit, or another node's pages.
    if (Status fits = check_fits(chunk.bytes, 0, available_memory_bytes(), "this machine"); !fits)
      return fits;
    if (Status mapped = map_chunk(part, chunk, ArenaBacking::shared); !mapped) return mapped;
    error = populate(chunk);
  }
  if (error == 0) return {};
  return fail_errno(error, fmt::format("{}: the kernel has no memory for {}", part.name,
                                       format_bytes(part.mapping.size())));
}

void Arena::measure() {
  std::vector<std::span<std::byte>> ranges;
  for (const Part& part : parts_) {
    ranges.push_back(part.mapping);
    report_.bytes += part.mapping.size();
    for (const ArenaChunk& chunk : part.chunks) report_.shared_bytes += chunk.fd >= 0 ? chunk.bytes : 0;
  }
  report_.huge_bytes = std::min(huge_bytes_of(ranges), report_.bytes);
  // Once a process: a second arena on the same machine has the same to say.
  static std::atomic<bool> said_unmappable{false};
  static std::atomic<bool> said_small_pages{false};
  if (source_ != nullptr) return;
  if (report_.shared_bytes < report_.bytes && !said_unmappable.exchange(true)) {
    log_message(
        LogLevel::debug,
        fmt::format(
            "{} of {} pool memory cannot be mapped by another process (no hugetlb pages are free, and "
            "the kernel gives shared memory no transparent huge pages)",
            format_bytes(report_.bytes - report_.shared_bytes), format_bytes(report_.bytes)));
  }
  if (report_.huge_bytes < report_.bytes && !said_small_pages.exchange(true)) {
    log_warn(
        "{} of {} pool memory is in 4 KiB pages, which makes direct I/O and copies several times slower; "
        "set hugetlb pages aside (vm.nr_hugepages) or allow transparent ones (madvise)",
        format_bytes(report_.bytes - report_.huge_bytes), format_bytes(report_.bytes));
  }
}

}  // namespace kvpool
