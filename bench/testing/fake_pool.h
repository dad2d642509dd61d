// A pool of std::map behind the C API, for tests of what is built on that API. It keeps the API's promises in
// the least convenient way: nothing happens before a poll, destinations hold garbage until their result, and
// a release comes one poll after its result. Linking kvpool_fake_pool instead of kvpool_api puts it in place.
//
// Thread: one. Failure: only what FakePool is told to do.

#pragma once

#include <cstdint>

namespace kvpool::bench {

// How the next pools behave; tests set it before they open one.
struct FakePool {
  uint64_t blocks_max = UINT64_MAX;    // room; the least recently used leaves go first
  uint32_t blocks_per_request = 4096;  // more is refused
  uint32_t segments_per_request = 32768;
  // Every so many-th, counted over all consumers; 0: never.
  uint64_t busy_call_every = 0;       // a call answers BUSY
  uint64_t busy_result_every = 0;     // a request ends with BUSY
  uint64_t wrong_block_every = 0;     // a block is delivered with one flipped bit
  uint64_t short_retrieve_every = 0;  // a retrieve delivers one block less and says MISS
  uint64_t failed_store_every = 0;    // a store ends with IO_ERROR and has stored nothing

  uint64_t refused_block_every = 0;  // a new block finds no room; blocks that stand alone go on behind it

  // Seen so far, reset by kvpool_open().
  uint64_t pins_held = 0;
  uint64_t requests = 0;
  uint64_t stored_blocks = 0;
  uint32_t blocks_max_seen = 0;  // of a request
};

FakePool& fake_pool();

}  // namespace kvpool::bench
