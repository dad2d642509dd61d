// HugePages: turns the pages of memory that drives are to read and write into huge ones, once.
//
// A drive's request on 1 MiB of small pages is 256 pieces, which the kernel pins one by one and may have to
// cut into several commands: reads around the page cache came to half of their speed. What the memory holds
// stays where it is for the process; others may use it meanwhile.
//
// Thread: its owner's. Failure: none; memory that cannot be changed (pinned, shared, of a kernel before 6.1)
// is left as it is, and is not tried again.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_set>

namespace kvpool::lmcache {

class HugePages {
 public:
  explicit HugePages(bool wanted) : wanted_(wanted) {}
  // Takes some tenths of a millisecond for each huge page that is new, and some milliseconds for each call:
  // best called with some megabytes side by side. Small parts are left alone. Whether any was new.
  bool use_for(std::span<const std::span<std::byte>> memory);
  // For memory that is to be pinned, and may not have been touched yet: all of it is taken from the system,
  // in huge pages where there are any. What it holds stays.
  static void prepare(std::span<const std::span<std::byte>> memory);

 private:
  bool wanted_;
  std::unordered_set<uintptr_t> seen_;  // huge pages, by number
};

}  // namespace kvpool::lmcache
