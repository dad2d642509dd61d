#include "connectors/lmcache/huge_pages.h"

#include <sys/mman.h>

#include <cerrno>

namespace kvpool::lmcache {
namespace {

constexpr uintptr_t huge_bytes = 2U << 20;
constexpr size_t seen_max = 1U << 20;  // 2 TiB of memory
constexpr int populate_write = 23;     // MADV_POPULATE_WRITE and
constexpr int collapse = 25;           // MADV_COLLAPSE, which older headers lack
// What is smaller is no buffer of a cache, and does not pay.
constexpr size_t part_min_bytes = 64U << 10;
constexpr int tries = 2;  // a page may be busy for a moment
constexpr uintptr_t page_bytes = 4096;

// 0 or the error.
int advise(uintptr_t begin, uintptr_t end, int advice) {
  // It may begin and end beside the memory it was made of: no pointer of that leads there.
  void* const memory = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr)
  return madvise(memory, end - begin, advice) == 0 ? 0 : errno;
}

int make_huge(uintptr_t begin_page, uintptr_t end_page) {
  int error = EAGAIN;
  for (int i = 0; i < tries && error == EAGAIN; ++i)
    error = advise(begin_page * huge_bytes, end_page * huge_bytes, collapse);
  return error;
}

// The pages at the ends may reach into memory of others that cannot be changed: where it fails for all
// together, those between are tried alone.
void change(uintptr_t begin_page, uintptr_t end_page) {
  if (begin_page == end_page) return;
  if (make_huge(begin_page, end_page) != EINVAL || end_page - begin_page == 1) return;
  (void)make_huge(begin_page, begin_page + 1);
  if (end_page - begin_page > 2) (void)make_huge(begin_page + 1, end_page - 1);
  (void)make_huge(end_page - 1, end_page);
}

}  // namespace

void HugePages::prepare(std::span<const std::span<std::byte>> memory) {
  for (const std::span<std::byte> part : memory) {
    const auto address = reinterpret_cast<uintptr_t>(part.data());
    const uintptr_t begin = address / page_bytes * page_bytes;
    const uintptr_t end = (address + part.size() + page_bytes - 1) / page_bytes * page_bytes;
    (void)advise(begin, end, MADV_HUGEPAGE);
    (void)advise(begin, end, populate_write);
  }
  (void)HugePages(true).use_for(memory);
}

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

}  // namespace kvpool::lmcache
