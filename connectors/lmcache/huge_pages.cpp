#include "connectors/lmcache/huge_pages.h"

#include <sys/mman.h>

#include <cerrno>

namespace kvpool::lmcache {
namespace {

constexpr uintptr_t huge_bytes = 2U << 20;
constexpr size_t seen_max = 1U << 20;  // 2 TiB of memory
constexpr int collapse = 25;           // MADV_COLLAPSE, which older headers lack
// What is smaller is no buffer of a cache, and does not pay.
constexpr size_t part_min_bytes = 64U << 10;
constexpr int tries = 2;  // a page may be busy for a moment

}  // namespace

bool HugePages::use_for(std::span<const std::span<std::byte>> memory) {
  if (!wanted_) return false;
  uintptr_t begin = 0;
  uintptr_t end = 0;  // of new pages side by side, by number
  for (const std::span<std::byte> part : memory) {
    if (part.size() < part_min_bytes) continue;
    const auto address = reinterpret_cast<uintptr_t>(part.data());
    // Those at the ends are shared with what lies beside it, as a rule more of the same buffer.
    for (uintptr_t page = address / huge_bytes; page <= (address + part.size() - 1) / huge_bytes; ++page) {
      if (seen_.size() == seen_max || !seen_.insert(page).second) continue;
      if (page != end) {
        change(begin, end);
        begin = page;
      }
      end = page + 1;
    }
  }
  change(begin, end);
  return end > 0;
}

void HugePages::change(uintptr_t begin, uintptr_t end) {
  if (begin == end) return;
  // Pages at the ends are shared with what lies beside the parts: no pointer of theirs leads there.
  void* const memory = reinterpret_cast<void*>(begin * huge_bytes);  // NOLINT(performance-no-int-to-ptr)
  for (int i = 0; i < tries; ++i) {
    if (madvise(memory, (end - begin) * huge_bytes, collapse) == 0 || errno != EAGAIN) return;
  }
}

}  // namespace kvpool::lmcache
