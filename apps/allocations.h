// Counts what the process allocates by operator new, over all threads, between start and stop. The tool's
// operator new is replaced for that (allocations.cpp): malloc and a look at one flag. Memory that C code
// takes by malloc() is not counted. Any thread; one count at a time.

#pragma once

#include <cstdint>

namespace kvpool {

void start_counting_allocations();
[[nodiscard]] uint64_t stop_counting_allocations();

}  // namespace kvpool
