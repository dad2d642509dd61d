#include "catalog/array.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>

namespace kvpool {

Result<void*> map_zeroed(size_t bytes, bool touch) {
  if (bytes == 0) bytes = 1;
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return fail_errno(errno, fmt::format("the catalog cannot map {} bytes", bytes));
  // Both are advice: a kernel without huge pages, or without MADV_POPULATE_WRITE, is only slower.
  if (bytes >= (2U << 20)) (void)madvise(memory, bytes, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_WRITE
  if (touch) (void)madvise(memory, bytes, MADV_POPULATE_WRITE);
#endif
  return memory;
}

void unmap(void* memory, size_t bytes) { munmap(memory, bytes == 0 ? 1 : bytes); }

}  // namespace kvpool
