// How much memory may be taken without meeting the out-of-memory killer: of the machine, of this process's
// control groups, and of one NUMA node. Any thread. What cannot be read does not bound (UINT64_MAX).

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvpool {

// The least of MemAvailable and of what each enclosing control group has left (its reclaimable page cache
// counted as free). Free hugetlb pages are not in it.
[[nodiscard]] uint64_t available_memory_bytes();

// Free and easily reclaimed memory of a node.
[[nodiscard]] uint64_t available_memory_bytes_of_node(int numa_node);

// 2 MiB hugetlb pages that nobody has or has reserved, in bytes; of one node, or of all (-1).
[[nodiscard]] uint64_t free_hugetlb_bytes(int numa_node);

// The nodes that have memory; {0} where the kernel knows no NUMA.
[[nodiscard]] std::vector<int> numa_nodes();

// "0-2,5" as the kernel writes lists of nodes and processors. What is not a list gives what was read so far.
[[nodiscard]] std::vector<int> parse_cpu_list(const std::string& text);

}  // namespace kvpool
