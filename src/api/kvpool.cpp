// The C functions: check what strangers pass, catch what the standard library throws, and hand over.

#include "kvpool/kvpool.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <chrono>

#include "api/compose.h"
#include "api/consumer.h"
#include "api/options.h"
#include "api/pool.h"
#include "api/read_config.h"
#include "api/report.h"

using kvpool::Errc;
using kvpool::Op;

using kvpool::bad;
using kvpool::guarded;
using kvpool::report;

namespace {

constexpr uint32_t longest_name_bytes = 512;
constexpr uint32_t offered_max = 16;

std::chrono::steady_clock::time_point after(uint64_t timeout_us) {
  constexpr uint64_t longest_us = 1ULL << 50;
  return std::chrono::steady_clock::now() + std::chrono::microseconds(std::min(timeout_us, longest_us));
}

// Waits until the engine has let go of the consumer; false at the time limit.
bool drain(kvpool_consumer& consumer, std::chrono::steady_clock::time_point until) {
  kvpool::Reactor& reactor = consumer.pool.reactor();
  reactor.run([&](kvpool::Engine& engine) { engine.close(consumer.port); });
  kvpool::Wakeup& wakeup = consumer.port.to_consumer;
  for (;;) {
    wakeup.prepare();
    const bool drained = consumer.port.drained.load(std::memory_order_acquire);
    const auto left = until - std::chrono::steady_clock::now();
    if (!drained && left > left.zero()) {
      pollfd descriptor{.fd = wakeup.fd(), .events = POLLIN, .revents = 0};
      const auto left_ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1;
      ::poll(&descriptor, 1, static_cast<int>(std::min<int64_t>(left_ms, 1'000'000)));
    }
    wakeup.done();
    if (drained) break;
    if (left <= left.zero()) return false;
  }
  reactor.run(
      [](kvpool::Engine&) {});  // the step that set `drained` is over: nothing touches the port any more
  return true;
}

kvpool_status close_consumer(kvpool_consumer* consumer, std::chrono::steady_clock::time_point until,
                             kvpool_error* error) {
  if (!drain(*consumer, until)) {
    std::string outstanding;
    consumer->pool.reactor().run([&](kvpool::Engine& engine) { outstanding = engine.outstanding(); });
    return report(Errc::timed_out, "still outstanding, call again: " + outstanding, error);
  }
  kvpool_pool& pool = consumer->pool;
  const std::lock_guard lock(pool.mutex);
  pool.buffers.give_back(consumer->region);
  std::erase(pool.consumers, consumer);
  delete consumer;
  return KVPOOL_OK;
}

}  // namespace

extern "C" {

uint32_t kvpool_abi_version(void) { return KVPOOL_ABI_VERSION; }

const char* kvpool_status_string(kvpool_status status) {
  return kvpool::to_string(static_cast<Errc>(status)).data();  // literals, so zero-terminated
}

kvpool_status kvpool_open(const kvpool_options* options, kvpool_pool** pool, kvpool_error* error) {
  return guarded(error, [&] {
    kvpool_options known;
    if (pool == nullptr || !kvpool::take_struct(options, known))
      return bad("kvpool_open: bad options", error);
    const std::span memory(known.memory, known.memory == nullptr ? 0 : known.memory_count);
    const auto is_none = [](const kvpool_memory& its) {
      return its.base == nullptr || its.bytes == 0 || its.bytes >> 48 != 0;
    };
    if (memory.size() != known.memory_count || memory.size() > offered_max ||
        std::ranges::any_of(memory, is_none)) {
      return bad("kvpool_open: memory of the caller's own is at most 16 pieces, none of them empty", error);
    }
    auto config = kvpool::read_config(known);
    if (!config) return report(config.error(), error);
    auto pieces = kvpool::compose(std::move(*config));
    if (!pieces) return report(pieces.error(), error);
    for (kvpool::Device* device : (*pieces)->set->devices()) {
      for (const kvpool_memory& its : memory) device->offer({static_cast<std::byte*>(its.base), its.bytes});
    }
    auto made = kvpool_pool::start(std::move(*pieces));
    if (!made) return report(made.error(), error);
    *pool = made->release();
    return KVPOOL_OK;
  });
}

kvpool_status kvpool_close(kvpool_pool* pool, uint64_t timeout_us, kvpool_error* error) {
  return guarded(error, [&] {
    if (pool == nullptr) return KVPOOL_OK;
    const auto until = after(timeout_us);
    for (;;) {
      kvpool_consumer* consumer = nullptr;
      {
        const std::lock_guard lock(pool->mutex);
        if (!pool->consumers.empty()) consumer = pool->consumers.back();
      }
      if (consumer == nullptr) break;
      const kvpool_status status = close_consumer(consumer, until, error);
      if (status != KVPOOL_OK) return status;
    }
    delete pool;
    return KVPOOL_OK;
  });
}

kvpool_status kvpool_namespace_open(kvpool_pool* pool, const kvpool_geometry* geometry, uint32_t* ns,
                                    kvpool_error* error) {
  return guarded(error, [&] {
    kvpool_geometry known;
    if (pool == nullptr || ns == nullptr || !kvpool::take_struct(geometry, known) || known.name == nullptr ||
        known.segment_bytes == nullptr || known.flat > 1) {
      return bad("kvpool_namespace_open: bad arguments", error);
    }
    kvpool::Geometry shape;
    // Never cut: two names that share their beginning are two namespaces.
    const size_t name_bytes = strnlen(known.name, longest_name_bytes + 1);
    if (name_bytes == 0 || name_bytes > longest_name_bytes) {
      return bad(fmt::format("a namespace's name is empty or too long; 1 to {} bytes are allowed",
                             longest_name_bytes)
                     .c_str(),
                 error);
    }
    shape.name.assign(known.name, name_bytes);
    shape.block_tokens = known.block_tokens;
    if (known.segments > kvpool::segments_max) {
      return bad(fmt::format("namespace '{}': {} segments; at most {} are allowed", shape.name,
                             known.segments, kvpool::segments_max)
                     .c_str(),
                 error);
    }
    shape.segment_bytes.assign(known.segment_bytes, known.segment_bytes + known.segments);
    if (known.window != nullptr) shape.window.assign(known.window, known.window + known.segments);
    if (auto valid = kvpool::validate(shape); !valid) return report(valid.error(), error);
    const auto opened = pool->open_namespace(shape, known.flat == 1);
    if (!opened) return report(opened.error(), error);
    *ns = *opened;
    return KVPOOL_OK;
  });
}

kvpool_status kvpool_namespace_find(kvpool_pool* pool, const char* name, uint32_t* ns) {
  if (pool == nullptr || name == nullptr || ns == nullptr) return KVPOOL_INVALID_ARGUMENT;
  const std::lock_guard lock(pool->mutex);
  const auto found = pool->namespaces.find(std::string_view(name));
  if (found == pool->namespaces.end()) return KVPOOL_MISS;
  *ns = found->second;
  return KVPOOL_OK;
}

kvpool_status kvpool_get_stats(kvpool_pool* pool, kvpool_stats* stats) {
  if (pool == nullptr || stats == nullptr) return KVPOOL_INVALID_ARGUMENT;
  return guarded(nullptr, [&] {
    kvpool_stats all{};
    pool->reactor().run([&](kvpool::Engine& engine) {
      const kvpool::EngineCounters& counters = engine.counters();
      const kvpool::CatalogCounters& catalog = pool->pieces->catalog->counters();
      const kvpool::CatalogUsage usage = pool->pieces->catalog->usage();
      all = {.struct_size = sizeof all,
             .ready_blocks = usage.ready_blocks,
             .live_bytes = usage.live_bytes,
             .stored_blocks = counters.stored_blocks,
             .stored_bytes = counters.stored_bytes,
             .retrieved_blocks = counters.retrieved_blocks,
             .retrieved_bytes = counters.retrieved_bytes,
             .evicted_blocks = catalog.evicted_blocks,
             .removed_blocks = catalog.removed_blocks,
             .retired_blocks = catalog.retired_blocks,
             .spilled_segments = catalog.spilled_segments,
             .spilled_bytes = catalog.spilled_bytes,
             .busy_requests = counters.busy_requests,
             .rejected_blocks = counters.rejected_blocks,
             .timed_out_requests = counters.timed_out_requests,
             .cancelled_requests = counters.cancelled_requests,
             .invalid_requests = counters.invalid_requests,
             .io_errors = counters.io_errors,
             .short_ios = counters.short_ios,
             .checksum_errors = counters.checksum_errors,
             .stalled_tickets = counters.stalled_tickets,
             .tickets_under_way = engine.tickets_under_way(),
             .pins_held = engine.pins().held(),
             .catalog_bytes_per_block = pool->pieces->catalog->bytes_per_block(),
             .bounced_bytes = counters.bounced_bytes};
    });
    return kvpool::give_struct(all, stats) ? KVPOOL_OK : KVPOOL_INVALID_ARGUMENT;
  });
}

uint32_t kvpool_device_count(kvpool_pool* pool) {
  return pool == nullptr ? 0 : static_cast<uint32_t>(pool->pieces->config.devices.size());
}

uint32_t kvpool_memory_ranges(kvpool_pool* pool, kvpool_memory* ranges, uint32_t max) {
  if (pool == nullptr) return 0;
  const auto& regions = pool->pieces->regions;
  for (size_t i = 0; ranges != nullptr && i < std::min<size_t>(max, regions.size()); ++i) {
    ranges[i] = {.base = regions[i].data(), .bytes = regions[i].size()};
  }
  return static_cast<uint32_t>(regions.size());
}

kvpool_status kvpool_get_device_stats(kvpool_pool* pool, uint32_t device, kvpool_device_stats* stats) {
  if (pool == nullptr || stats == nullptr || device >= kvpool_device_count(pool))
    return KVPOOL_INVALID_ARGUMENT;
  return guarded(nullptr, [&] {
    kvpool_device_stats all{};
    pool->reactor().run([&](kvpool::Engine& engine) {
      const kvpool::DeviceCounters counters =
          engine.device_counters(kvpool::DeviceId(static_cast<uint8_t>(device)));
      const kvpool::CatalogUsage usage = pool->pieces->catalog->usage();
      const kvpool::DeviceProfile& profile = engine.profile().devices[device];
      all.struct_size = sizeof all;
      profile.name.copy(all.name, sizeof all.name - 1);
      all.size_bytes = usage.device_size_bytes[device];
      all.used_bytes = usage.device_used_bytes[device];
      all.read_bytes = counters.read_bytes;
      all.written_bytes = counters.written_bytes;
      all.reads = counters.reads;
      all.writes = counters.writes;
      all.errors = counters.errors;
      all.busy_us = static_cast<uint64_t>(counters.busy.count()) / 1000;
      all.planned_share = engine.placement().shares()[device];
      all.read_bytes_per_second = profile.read_bytes_per_second;
      all.write_bytes_per_second = profile.write_bytes_per_second;
      all.discarded_bytes = counters.discarded_bytes;
      all.in_memory = pool->pieces->set->devices()[device]->limits().in_place ? 1 : 0;
    });
    return kvpool::give_struct(all, stats) ? KVPOOL_OK : KVPOOL_INVALID_ARGUMENT;
  });
}

kvpool_status kvpool_consumer_open(kvpool_pool* pool, const kvpool_consumer_options* options,
                                   kvpool_consumer** consumer, kvpool_error* error) {
  return guarded(error, [&] {
    kvpool_consumer_options known;
    if (pool == nullptr || consumer == nullptr || !kvpool::take_struct(options, known)) {
      return bad("kvpool_consumer_open: bad arguments", error);
    }
    const std::lock_guard lock(pool->mutex);
    pool->consumers.reserve(pool->consumers.size() + 1);
    if (known.region_bytes == UINT64_MAX) known.region_bytes = pool->buffers.largest_free_bytes();
    const std::span<std::byte> region = pool->buffers.take(known.region_bytes);
    if (region.size() < known.region_bytes) {
      return report(
          Errc::too_large,
          fmt::format("a consumer asks for a region of {} bytes; {} are left of pool.buffers: set it larger",
                      known.region_bytes, pool->buffers.largest_free_bytes()),
          error);
    }
    std::unique_ptr<kvpool_consumer> made;
    try {
      made = std::make_unique<kvpool_consumer>(*pool, known.name, region);
    } catch (...) {
      pool->buffers.give_back(region);
      throw;
    }
    Errc attached = Errc::ok;
    pool->reactor().run([&](kvpool::Engine& engine) { attached = engine.attach(made->port); });
    if (attached != Errc::ok) {
      pool->buffers.give_back(region);
      return report(attached, "limits.consumers are open already; close one or set it larger", error);
    }
    pool->consumers.push_back(made.get());
    *consumer = made.release();
    return KVPOOL_OK;
  });
}

kvpool_status kvpool_consumer_close(kvpool_consumer* consumer, uint64_t timeout_us, kvpool_error* error) {
  if (consumer == nullptr) return KVPOOL_OK;
  return guarded(error, [&] { return close_consumer(consumer, after(timeout_us), error); });
}

void* kvpool_region(kvpool_consumer* consumer, uint64_t* bytes) {
  if (bytes != nullptr) *bytes = consumer->region.size();
  return consumer->region.data();
}

kvpool_status kvpool_region_add(kvpool_consumer* consumer, void* base, uint64_t bytes) {
  if (consumer == nullptr || base == nullptr || bytes == 0 || bytes >> 48 != 0)
    return KVPOOL_INVALID_ARGUMENT;
  return consumer->port.regions.add({static_cast<std::byte*>(base), bytes}) ? KVPOOL_OK : KVPOOL_BUSY;
}

uint64_t kvpool_address(kvpool_consumer* consumer, const void* pointer) {
  return consumer->port.regions.address_of(pointer).value;
}

kvpool_status kvpool_match(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Op::match, r, t);
}
kvpool_status kvpool_retrieve(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Op::retrieve, r, t);
}
kvpool_status kvpool_store(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Op::store, r, t);
}
kvpool_status kvpool_stage(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Op::stage, r, t);
}
kvpool_status kvpool_estimate(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Op::estimate, r, t);
}
kvpool_status kvpool_delete(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Op::remove, r, t);
}
kvpool_status kvpool_unpin(kvpool_consumer* c, const kvpool_request* r, kvpool_ticket* t) {
  return c->submit(Op::unpin, r, t);
}
kvpool_status kvpool_cancel(kvpool_consumer* c, kvpool_ticket ticket) { return c->cancel(ticket); }

uint32_t kvpool_poll(kvpool_consumer* c, kvpool_completion* out, uint32_t max) { return c->poll(out, max); }
void kvpool_wait(kvpool_consumer* c, uint64_t timeout_us) { c->wait(timeout_us); }
int kvpool_event_fd(kvpool_consumer* c) { return c->port.to_consumer.fd(); }
int kvpool_arm(kvpool_consumer* c) { return c->arm() ? 1 : 0; }
uint32_t kvpool_progress(kvpool_consumer* c, kvpool_ticket ticket) { return c->progress(ticket); }

}  // extern "C"
