#include "bench/testing/fake_pool.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <ranges>
#include <set>
#include <string>
#include <vector>

#include "base/assert.h"
#include "kvpool/kvpool.h"

namespace kvpool::bench {
FakePool& fake_pool() {
  static FakePool pool;
  return pool;
}
}  // namespace kvpool::bench

using kvpool::bench::fake_pool;

namespace {

struct Key {
  uint32_t ns = 0;
  uint64_t high = 0, low = 0;
  friend auto operator<=>(const Key&, const Key&) = default;
};

struct Block {
  std::vector<std::vector<std::byte>> segments;
  std::optional<Key> parent;
  uint64_t children = 0, pins = 0, used_at = 0;
};

struct Namespace {
  std::string name;
  std::vector<uint32_t> segment_bytes;
  std::vector<uint8_t> window;
  bool flat = false;
};

// The segments that a request asks for.
struct Columns {
  uint32_t first, count, blocks;
  Columns(const kvpool_request& request, const Namespace& ns)
      : first(request.segment_first),
        count(request.segment_count != 0 ? request.segment_count
                                         : static_cast<uint32_t>(ns.segment_bytes.size())),
        blocks(request.blocks) {}
  [[nodiscard]] bool is_wanted(const Namespace& ns, uint32_t segment, uint32_t block) const {
    return ns.window.empty() || ns.window[segment] == 0 || block + 1 == blocks;
  }
};

bool every(uint64_t interval, uint64_t& count) { return interval != 0 && ++count % interval == 0; }

enum class Kind { match, retrieve, store, unpin };

struct Pending {
  Kind kind;
  kvpool_request request;
  kvpool_ticket ticket;
};

}  // namespace

struct kvpool_pool {
  std::vector<Namespace> namespaces;
  std::map<Key, Block> blocks;
  std::set<std::pair<uint64_t, Key>> evictable;  // unpinned leaves, by last use
  std::map<kvpool_pin, std::vector<Key>> pins;
  kvpool_stats stats{};
  uint64_t now = 0, pin_next = 1, ticket_next = 1;
  uint64_t calls = 0, results = 0, delivered = 0, retrieves = 0, stores = 0, added = 0;

  // Changes a block and keeps `evictable` true to it.
  template <class Change>
  void change(const Key& key, Change change_it) {
    Block& block = blocks.at(key);
    evictable.erase({block.used_at, key});
    change_it(block);
    if (block.children == 0 && block.pins == 0) evictable.insert({block.used_at, key});
  }

  bool make_room() {
    while (blocks.size() >= fake_pool().blocks_max) {
      if (evictable.empty()) return false;
      const Key key = evictable.begin()->second;
      evictable.erase(evictable.begin());
      const auto parent = blocks.at(key).parent;
      blocks.erase(key);
      if (parent) change(*parent, [](Block& block) { --block.children; });
      ++stats.evicted_blocks;
    }
    return true;
  }

  std::vector<Key> match(const kvpool_request& request) {
    std::vector<Key> run;
    std::optional<Key> parent = parent_of(request);
    for (uint32_t i = 0; i < request.blocks; ++i) {
      const Key key{request.ns, request.keys[i].high, request.keys[i].low};
      const auto found = blocks.find(key);
      if (found == blocks.end() || found->second.parent != parent) break;
      run.push_back(key);
      if (!namespaces[request.ns].flat) parent = key;
    }
    for (const Key& key : std::views::reverse(run)) {
      change(key, [&](Block& block) { block.used_at = ++now; });
    }
    return run;
  }

  std::optional<Key> parent_of(const kvpool_request& request) const {
    if (request.has_parent == 0) return std::nullopt;
    return Key{request.ns, request.parent.high, request.parent.low};
  }

  void unpin(kvpool_pin pin) {
    const auto found = pins.find(pin);
    KVPOOL_ASSERT(found != pins.end());
    for (const Key& key : found->second) change(key, [](Block& block) { --block.pins; });
    pins.erase(found);
    --fake_pool().pins_held;
  }

  // Here an address is the pointer itself.
  std::byte* at(uint64_t address) const { return std::bit_cast<std::byte*>(address); }

  void do_match(const kvpool_request& request, kvpool_completion& out) {
    const auto run = match(request);
    out.blocks = static_cast<uint32_t>(run.size());
    out.status = run.size() == request.blocks ? KVPOOL_OK : KVPOOL_MISS;
    if (run.empty() || (request.flags & KVPOOL_PIN) == 0) return;
    for (const Key& key : run) change(key, [](Block& block) { ++block.pins; });
    out.pin = pin_next++;
    pins[out.pin] = run;
    ++fake_pool().pins_held;
  }

  void do_retrieve(const kvpool_request& request, kvpool_completion& out) {
    const auto& run = pins.at(request.pin);
    const Namespace& ns = namespaces[request.ns];
    const Columns columns(request, ns);
    out.blocks = request.blocks;
    for (uint32_t b = 0; b < request.blocks; ++b) {
      const Block& block = blocks.at(run.at(request.block_first + b));
      const bool wrong = every(fake_pool().wrong_block_every, delivered);
      for (uint32_t s = columns.first; s < columns.first + columns.count; ++s) {
        if (!columns.is_wanted(ns, s, b)) continue;
        std::byte* to = at(request.buffers[b * columns.count + s - columns.first]);
        std::memcpy(to, block.segments[s].data(), block.segments[s].size());
        out.bytes += block.segments[s].size();
        if (wrong) to[block.segments[s].size() - 1] ^= std::byte{1};
      }
    }
    if (every(fake_pool().short_retrieve_every, retrieves)) {
      --out.blocks;
      out.status = KVPOOL_MISS;
    }
  }

  void do_store(const kvpool_request& request, kvpool_completion& out) {
    const Namespace& ns = namespaces[request.ns];
    std::optional<Key> parent = parent_of(request);
    if (every(fake_pool().failed_store_every, stores)) {
      out.status = KVPOOL_IO_ERROR;
      return;
    }
    for (uint32_t b = 0; b < request.blocks; ++b) {
      const Key key{request.ns, request.keys[b].high, request.keys[b].low};
      if (!blocks.contains(key) && !add(key, parent, ns, request.buffers + b * ns.segment_bytes.size())) {
        out.status = KVPOOL_REJECTED;
        if (!ns.flat) return;
      }
      if (out.status == KVPOOL_OK) ++out.blocks;
      if (!ns.flat) parent = key;
    }
  }

  bool add(const Key& key, const std::optional<Key>& parent, const Namespace& ns, const uint64_t* buffers) {
    if (parent && !blocks.contains(*parent)) return false;
    if (every(fake_pool().refused_block_every, added)) return false;
    if (parent) change(*parent, [](Block& block) { ++block.children; });
    if (!make_room()) {
      if (parent) change(*parent, [](Block& block) { --block.children; });
      return false;
    }
    Block& block = blocks[key];
    block.parent = parent;
    block.used_at = ++now;
    for (uint32_t s = 0; s < ns.segment_bytes.size(); ++s) {
      block.segments.emplace_back(at(buffers[s]), at(buffers[s]) + ns.segment_bytes[s]);
    }
    evictable.insert({block.used_at, key});
    ++stats.stored_blocks;
    ++fake_pool().stored_blocks;
    return true;
  }

  kvpool_completion execute(const Pending& pending) {
    kvpool_completion out{};
    out.user_data = pending.request.user_data;
    out.ticket = pending.ticket;
    out.kind = KVPOOL_RESULT;
    if (every(fake_pool().busy_result_every, results)) {
      out.status = KVPOOL_BUSY;
      return out;
    }
    switch (pending.kind) {
      case Kind::match:
        do_match(pending.request, out);
        break;
      case Kind::retrieve:
        do_retrieve(pending.request, out);
        break;
      case Kind::store:
        do_store(pending.request, out);
        break;
      case Kind::unpin:
        unpin(pending.request.pin);
        break;
    }
    return out;
  }
};

struct kvpool_consumer {
  kvpool_pool* pool = nullptr;
  std::vector<std::byte> memory;
  std::byte* region = nullptr;
  uint64_t region_bytes = 0;
  std::deque<Pending> pending;
  std::deque<kvpool_completion> releases;  // of results that an earlier poll gave out

  [[nodiscard]] bool is_inside(const void* pointer, uint64_t bytes) const {
    const auto* begin = static_cast<const std::byte*>(pointer);
    return begin >= region && begin + bytes <= region + region_bytes;
  }

  [[nodiscard]] bool is_valid(Kind kind, const kvpool_request& request) const {
    if (request.struct_size != sizeof request) return false;
    if (kind == Kind::unpin) return pool->pins.contains(request.pin);
    const kvpool::bench::FakePool& limits = fake_pool();
    const Namespace& ns = pool->namespaces.at(request.ns);
    const Columns columns(request, ns);
    if (request.blocks == 0 || request.blocks > limits.blocks_per_request) return false;
    if (kind != Kind::retrieve && !is_inside(request.keys, request.blocks * sizeof(kvpool_key))) return false;
    if (kind == Kind::match) return true;
    const uint64_t buffers = uint64_t{request.blocks} * columns.count;
    if (columns.first + columns.count > ns.segment_bytes.size()) return false;
    if (buffers > limits.segments_per_request) return false;
    if (!is_inside(request.buffers, buffers * sizeof(uint64_t))) return false;
    for (uint64_t i = 0; i < buffers; ++i) {
      const auto segment = static_cast<uint32_t>(columns.first + i % columns.count);
      const auto block = static_cast<uint32_t>(i / columns.count);
      if (kind == Kind::retrieve && !columns.is_wanted(ns, segment, block)) continue;
      if (!is_inside(pool->at(request.buffers[i]), ns.segment_bytes[segment])) return false;
    }
    if (kind == Kind::store) return true;
    return pool->pins.contains(request.pin) &&
           request.block_first + request.blocks <= pool->pins.at(request.pin).size();
  }

  kvpool_status submit(Kind kind, const kvpool_request& request, kvpool_ticket* ticket) {
    if (!is_valid(kind, request)) return KVPOOL_INVALID_ARGUMENT;
    if (every(fake_pool().busy_call_every, pool->calls)) return KVPOOL_BUSY;
    ++fake_pool().requests;
    fake_pool().blocks_max_seen = std::max(fake_pool().blocks_max_seen, request.blocks);
    if (kind == Kind::retrieve) scribble(request);
    *ticket = pool->ticket_next++;
    pending.push_back({kind, request, *ticket});
    return KVPOOL_OK;
  }

  void scribble(const kvpool_request& request) const {
    const Namespace& ns = pool->namespaces[request.ns];
    const Columns columns(request, ns);
    for (uint64_t i = 0; i < uint64_t{request.blocks} * columns.count; ++i) {
      const auto segment = static_cast<uint32_t>(columns.first + i % columns.count);
      if (!columns.is_wanted(ns, segment, static_cast<uint32_t>(i / columns.count))) continue;
      std::memset(pool->at(request.buffers[i]), 0xee, ns.segment_bytes[segment]);
    }
  }

  uint32_t poll(kvpool_completion* out, uint32_t max) {
    uint32_t count = 0;
    for (; count < max && !releases.empty(); releases.pop_front()) out[count++] = releases.front();
    if (count > 0 || pending.empty()) return count;
    out[0] = pool->execute(pending.front());
    pending.pop_front();
    releases.push_back(out[0]);
    releases.back().kind = KVPOOL_RELEASE;
    return 1;
  }
};

extern "C" {

uint32_t kvpool_abi_version(void) { return KVPOOL_ABI_VERSION; }
const char* kvpool_status_string(kvpool_status) { return "a status"; }

kvpool_status kvpool_open(const kvpool_options* options, kvpool_pool** pool, kvpool_error* error) {
  if (options->config_toml == nullptr || std::string_view(options->config_toml) == "bad") {
    std::strcpy(error->message, "bad configuration");
    return KVPOOL_INVALID_ARGUMENT;
  }
  fake_pool().pins_held = fake_pool().requests = fake_pool().stored_blocks = 0;
  fake_pool().blocks_max_seen = 0;
  *pool = new kvpool_pool;
  return KVPOOL_OK;
}

kvpool_status kvpool_close(kvpool_pool* pool, uint64_t, kvpool_error*) {
  delete pool;
  return KVPOOL_OK;
}

kvpool_status kvpool_namespace_open(kvpool_pool* pool, const kvpool_geometry* geometry, uint32_t* ns,
                                    kvpool_error*) {
  if (kvpool_namespace_find(pool, geometry->name, ns) == KVPOOL_OK) return KVPOOL_OK;
  *ns = static_cast<uint32_t>(pool->namespaces.size());
  Namespace made{.name = geometry->name,
                 .segment_bytes = {geometry->segment_bytes, geometry->segment_bytes + geometry->segments},
                 .window = {},
                 .flat = geometry->flat != 0};
  if (geometry->window != nullptr) {
    made.window.assign(geometry->window, geometry->window + geometry->segments);
  }
  pool->namespaces.push_back(std::move(made));
  return KVPOOL_OK;
}

kvpool_status kvpool_namespace_find(kvpool_pool* pool, const char* name, uint32_t* ns) {
  for (size_t i = 0; i < pool->namespaces.size(); ++i) {
    if (pool->namespaces[i].name != name) continue;
    *ns = static_cast<uint32_t>(i);
    return KVPOOL_OK;
  }
  return KVPOOL_MISS;
}

kvpool_status kvpool_get_stats(kvpool_pool* pool, kvpool_stats* stats) {
  *stats = pool->stats;
  stats->struct_size = sizeof *stats;
  stats->ready_blocks = pool->blocks.size();
  return KVPOOL_OK;
}
uint32_t kvpool_device_count(kvpool_pool*) { return 0; }
kvpool_status kvpool_get_device_stats(kvpool_pool*, uint32_t, kvpool_device_stats*) {
  return KVPOOL_INVALID_ARGUMENT;
}

kvpool_status kvpool_consumer_open(kvpool_pool* pool, const kvpool_consumer_options* options,
                                   kvpool_consumer** consumer, kvpool_error*) {
  auto made = std::make_unique<kvpool_consumer>();
  made->pool = pool;
  made->memory.resize(options->region_bytes + 4096);
  void* base = made->memory.data();
  size_t space = made->memory.size();
  made->region = static_cast<std::byte*>(std::align(4096, options->region_bytes, base, space));
  made->region_bytes = options->region_bytes;
  *consumer = made.release();
  return KVPOOL_OK;
}
kvpool_status kvpool_consumer_close(kvpool_consumer* consumer, uint64_t, kvpool_error*) {
  delete consumer;
  return KVPOOL_OK;
}

void* kvpool_region(kvpool_consumer* consumer, uint64_t* bytes) {
  *bytes = consumer->region_bytes;
  return consumer->region;
}
kvpool_status kvpool_region_add(kvpool_consumer*, void*, uint64_t) { return KVPOOL_UNSUPPORTED; }
uint64_t kvpool_address(kvpool_consumer* consumer, const void* pointer) {
  return consumer->is_inside(pointer, 0) ? reinterpret_cast<uint64_t>(pointer) : UINT64_MAX;
}

kvpool_status kvpool_match(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Kind::match, *r, t);
}
kvpool_status kvpool_retrieve(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Kind::retrieve, *r, t);
}
kvpool_status kvpool_store(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Kind::store, *r, t);
}
kvpool_status kvpool_unpin(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Kind::unpin, *r, t);
}
kvpool_status kvpool_stage(kvpool_consumer*, const kvpool_request*, kvpool_ticket*) {
  return KVPOOL_UNSUPPORTED;
}
kvpool_status kvpool_estimate(kvpool_consumer*, const kvpool_request*, kvpool_ticket*) {
  return KVPOOL_UNSUPPORTED;
}
kvpool_status kvpool_delete(kvpool_consumer*, const kvpool_request*, kvpool_ticket*) {
  return KVPOOL_UNSUPPORTED;
}
kvpool_status kvpool_cancel(kvpool_consumer*, kvpool_ticket) { return KVPOOL_OK; }

uint32_t kvpool_poll(kvpool_consumer* consumer, kvpool_completion* out, uint32_t max) {
  return consumer->poll(out, max);
}
void kvpool_wait(kvpool_consumer*, uint64_t) {}
int kvpool_event_fd(kvpool_consumer*) { return -1; }
int kvpool_arm(kvpool_consumer*) { return 0; }
uint32_t kvpool_progress(kvpool_consumer*, kvpool_ticket) { return 0; }
}
