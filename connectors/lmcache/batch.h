// Batch: one operation of LMCache's on many keys, from its submission until its completion is taken.
//
// Threads: made and destroyed by whoever holds the GIL; the worker's (worker.h) in between.
// Failure: none of its own.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "connectors/lmcache/lengths.h"
#include "kvpool/kvpool.h"

namespace kvpool::lmcache {

enum class BatchKind : uint8_t { set, get, exists, remove };

struct Batch {
  // The same length, and so one namespace: entries [begin, end) of `order`.
  struct Group {
    const Length* length = nullptr;
    uint32_t begin = 0;
    uint32_t end = 0;
    size_t addresses = 0;  // where those of its first entry are
  };

  uint64_t id = 0;
  BatchKind kind = BatchKind::set;
  std::vector<kvpool_key> keys;
  std::vector<std::span<std::byte>> values;  // of set and get, one a key
  std::vector<std::shared_ptr<void>> kept;   // what holds the values' memory; dropped with the GIL held

  std::vector<uint8_t> found;  // one a key: loaded, there, or removed
  bool ok = true;
  std::string error;

  // The worker's: the keys by length, what the C API reads, and what has still to be done.
  std::vector<uint32_t> order;
  std::vector<kvpool_key> ordered_keys;
  std::vector<uint64_t> addresses;
  std::vector<Group> groups;
  size_t group = 0;
  uint32_t next = 0;
  uint32_t tasks = 0;

  [[nodiscard]] bool moves_data() const { return kind == BatchKind::set || kind == BatchKind::get; }
  [[nodiscard]] bool started() const { return group == groups.size(); }
  void fail(const std::string& why) {
    ok = false;
    if (error.empty()) error = why;
  }
};

}  // namespace kvpool::lmcache
