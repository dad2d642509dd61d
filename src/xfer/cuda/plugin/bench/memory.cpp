#include "xfer/cuda/plugin/bench/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/prng.h"

namespace kvpool {
namespace {

void fill(std::span<uint64_t> words, uint64_t seed) {
  for (size_t i = 0; i < words.size(); ++i) words[i] = mix64(seed + i);
}

}  // namespace

Status HostMemory::open(uint64_t bytes, uint64_t seed) {
  constexpr uint64_t huge_bytes_each = 2 << 20;
  const uint64_t rounded = (bytes + huge_bytes_each - 1) / huge_bytes_each * huge_bytes_each;
  void* const taken =
      mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (taken == MAP_FAILED) return fail_errno(errno, "mmap of " + std::to_string(rounded) + " bytes");
  (void)madvise(taken, rounded, MADV_HUGEPAGE);
  memory_ = {static_cast<std::byte*>(taken), rounded};
  const std::span<uint64_t> words(static_cast<uint64_t*>(taken), rounded / sizeof(uint64_t));
  const size_t threads = std::clamp(std::thread::hardware_concurrency(), 1U, 16U);
  const size_t share = (words.size() + threads - 1) / threads;
  std::vector<std::thread> fillers;
  for (size_t first = 0; first < words.size(); first += share) {
    const auto part = words.subspan(first, std::min(share, words.size() - first));
    fillers.emplace_back(fill, part, seed + first);
  }
  for (std::thread& filler : fillers) filler.join();
  return {};
}

HostMemory::~HostMemory() {
  if (!memory_.empty()) munmap(memory_.data(), memory_.size());
}

uint64_t HostMemory::huge_bytes() {
  std::ifstream rollup("/proc/self/smaps_rollup");
  for (std::string word; rollup >> word;) {
    uint64_t kib = 0;
    if (word == "AnonHugePages:" && rollup >> kib) return kib * 1024;
  }
  return 0;
}

}  // namespace kvpool
