// Huge pages beside the drives: user-space drivers do DMA from nothing else. Any thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "io/pci/host.h"

namespace kvpool {

// Of one NUMA node, or of the whole machine.
struct HugePages {
  std::optional<int> node;  // none: the whole machine
  uint64_t page_bytes = 0;
  uint64_t pages_free = 0;       // that are there already
  uint64_t pages_wanted = 0;     // to be free
  std::optional<HostStep> step;  // none: there are enough
};

// So that `bytes` of huge pages are free, in equal parts on those of `nodes` that are known where the machine
// has several nodes. What is there is never made less. Errc::unsupported where the kernel has no huge pages.
[[nodiscard]] Result<std::vector<HugePages>> plan_huge_pages(const Host& host, uint64_t bytes,
                                                             const std::vector<int>& nodes);

// Does the step; the pages that are free then, which may be fewer than wanted.
[[nodiscard]] Result<uint64_t> reserve_huge_pages(const Host& host, const HugePages& pages);

}  // namespace kvpool
