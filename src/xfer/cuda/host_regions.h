// HostRegions: the ranges of host memory that a GPU reaches, so that a wrong address is refused before it
// gets there. Ranges that touch are one.
//
// Thread: its owner's. Failure: none. add() allocates, contains() does not.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvpool {

class HostRegions {
 public:
  void add(std::span<const std::byte> memory);
  [[nodiscard]] bool contains(const std::byte* first, uint64_t bytes) const;

 private:
  struct Range {
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  std::vector<Range> ranges_;  // by address, apart from each other
  mutable size_t last_ = 0;    // where the last one was found
};

}  // namespace kvpool
