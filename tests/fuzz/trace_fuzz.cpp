// Any bytes as a trace: reading ends in a trace that hangs together, or in an error.

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>

#include "base/assert.h"
#include "bench/trace.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::istringstream in(std::string(reinterpret_cast<const char*>(data), size));
  const auto trace = kvpool::bench::read_trace(in, "fuzz");
  if (!trace) {
    KVPOOL_ASSERT(trace.error().message.starts_with("fuzz:"));
    return 0;
  }
  KVPOOL_ASSERT(!trace->requests().empty());
  for (const auto& request : trace->requests()) {
    KVPOOL_ASSERT(trace->ids(request).size() == kvpool::bench::trace_blocks(request.input_tokens));
  }
  static_cast<void>(trace->is_chained());
  return 0;
}
