#include "bench/client.h"

#include <fmt/format.h>

#include <thread>

#include "base/assert.h"
#include "base/log.h"
#include "base/units.h"

namespace kvpool::bench {
namespace {

// How long to sleep where no completion of our own can be expected to wake us.
constexpr Nanos retry_pause = std::chrono::milliseconds(1);

// The longest sleep between two looks at the clock.
constexpr Nanos nap_max = std::chrono::milliseconds(100);

uint64_t to_microseconds(Nanos time) {
  return static_cast<uint64_t>(std::chrono::ceil<std::chrono::microseconds>(time).count());
}

// The pool's own words, or the status's name where it left none.
tl::unexpected<Error> api_failure(kvpool_status status, const kvpool_error& error, std::string_view what) {
  const std::string_view message(error.message);
  if (!message.empty()) return fail(to_errc(status), std::string(message));
  return fail(to_errc(status), fmt::format("{}: {}", what, kvpool_status_string(status)));
}

kvpool_status call(kvpool_consumer* consumer, const Request& request, kvpool_ticket* ticket) {
  switch (request.kind()) {
    case RequestKind::match:
      return kvpool_match(consumer, &request.raw(), ticket);
    case RequestKind::retrieve:
      return kvpool_retrieve(consumer, &request.raw(), ticket);
    case RequestKind::store:
      return kvpool_store(consumer, &request.raw(), ticket);
    case RequestKind::stage:
      return kvpool_stage(consumer, &request.raw(), ticket);
    case RequestKind::estimate:
      return kvpool_estimate(consumer, &request.raw(), ticket);
    case RequestKind::remove:
      return kvpool_delete(consumer, &request.raw(), ticket);
    case RequestKind::unpin:
      return kvpool_unpin(consumer, &request.raw(), ticket);
  }
  return KVPOOL_INVALID_ARGUMENT;
}

}  // namespace

Errc to_errc(int32_t status) {
  KVPOOL_ASSERT(status >= 0 && status <= static_cast<int32_t>(Errc::system));
  return static_cast<Errc>(status);
}

Result<Pool> Pool::open(const std::string& config_toml) {
  kvpool_options options{};
  options.struct_size = sizeof options;
  options.config_toml = config_toml.c_str();
  kvpool_pool* pool = nullptr;
  kvpool_error error{};
  const kvpool_status status = kvpool_open(&options, &pool, &error);
  if (status != KVPOOL_OK) return api_failure(status, error, "opening the pool");
  return Pool(pool);
}

Status Pool::close(Nanos timeout) {
  if (!handle_) return {};
  kvpool_error error{};
  const kvpool_status status = kvpool_close(handle_.get(), to_microseconds(timeout), &error);
  if (status != KVPOOL_OK) return api_failure(status, error, "closing the pool");
  static_cast<void>(handle_.release());
  return {};
}

void Pool::Closer::operator()(kvpool_pool* pool) const {
  kvpool_error error{};
  if (kvpool_close(pool, to_microseconds(patience), &error) != KVPOOL_OK) {
    log_error("the pool could not be closed: {}", error.message);
  }
}

Result<NamespaceId> Pool::open_namespace(const Geometry& geometry, bool flat) {
  const std::vector<uint8_t> window(geometry.window.begin(), geometry.window.end());
  kvpool_geometry raw{};
  raw.struct_size = sizeof raw;
  raw.name = geometry.name.c_str();
  raw.block_tokens = geometry.block_tokens;
  raw.segments = geometry.segments();
  raw.segment_bytes = geometry.segment_bytes.data();
  raw.window = window.empty() ? nullptr : window.data();
  raw.flat = flat ? 1 : 0;
  uint32_t ns = 0;
  kvpool_error error{};
  const kvpool_status status = kvpool_namespace_open(handle_.get(), &raw, &ns, &error);
  if (status != KVPOOL_OK) return api_failure(status, error, "opening namespace " + geometry.name);
  return NamespaceId(static_cast<uint16_t>(ns));
}

Result<NamespaceId> Pool::find_namespace(const std::string& name) {
  uint32_t ns = 0;
  const kvpool_status status = kvpool_namespace_find(handle_.get(), name.c_str(), &ns);
  if (status != KVPOOL_OK) return api_failure(status, {}, "finding namespace " + name);
  return NamespaceId(static_cast<uint16_t>(ns));
}

kvpool_stats Pool::stats() const {
  kvpool_stats stats{};
  stats.struct_size = sizeof stats;
  KVPOOL_ASSERT(kvpool_get_stats(handle_.get(), &stats) == KVPOOL_OK);
  return stats;
}

kvpool_stats Pool::settled_stats() const {
  constexpr int looks_max = 100;
  constexpr auto pause = std::chrono::milliseconds(10);  // longer than a snapshot's age
  kvpool_stats stats{};
  for (int look = 0; look < looks_max; ++look) {
    std::this_thread::sleep_for(pause);
    stats = this->stats();
    if (stats.tickets_under_way == 0) break;
  }
  std::this_thread::sleep_for(pause);
  return this->stats();
}

std::vector<kvpool_device_stats> Pool::device_stats() const {
  std::vector<kvpool_device_stats> all(kvpool_device_count(handle_.get()));
  for (uint32_t i = 0; i < all.size(); ++i) {
    all[i].struct_size = sizeof all[i];
    KVPOOL_ASSERT(kvpool_get_device_stats(handle_.get(), i, &all[i]) == KVPOOL_OK);
  }
  return all;
}

Result<Consumer> Consumer::open(Pool& pool, const std::string& name, uint64_t region_bytes) {
  kvpool_consumer_options options{};
  options.struct_size = sizeof options;
  options.name = name.c_str();
  options.region_bytes = region_bytes;
  kvpool_consumer* consumer = nullptr;
  kvpool_error error{};
  const kvpool_status status = kvpool_consumer_open(pool.handle(), &options, &consumer, &error);
  if (status != KVPOOL_OK) return api_failure(status, error, "opening consumer " + name);
  return Consumer(consumer);
}

Consumer::Consumer(kvpool_consumer* consumer)
    : handle_(consumer), slots_(std::make_unique<std::array<Slot, slots_max>>()) {
  uint64_t bytes = 0;
  void* base = kvpool_region(consumer, &bytes);
  region_ = {static_cast<std::byte*>(base), bytes};
  free_slots_.reserve(slots_max);
  for (uint32_t i = slots_max; i > 0; --i) free_slots_.push_back(i - 1);
}

Status Consumer::close(Nanos timeout) {
  if (!handle_) return {};
  kvpool_error error{};
  const kvpool_status status = kvpool_consumer_close(handle_.get(), to_microseconds(timeout), &error);
  if (status != KVPOOL_OK) return api_failure(status, error, "closing the consumer");
  static_cast<void>(handle_.release());
  return {};
}

void Consumer::Closer::operator()(kvpool_consumer* consumer) const {
  kvpool_error error{};
  if (kvpool_consumer_close(consumer, to_microseconds(patience), &error) != KVPOOL_OK) {
    log_error("a consumer could not be closed: {}", error.message);
  }
}

Result<std::span<std::byte>> Consumer::allocate(uint64_t bytes, uint64_t alignment) {
  const uint64_t begin = (used_bytes_ + alignment - 1) & ~(alignment - 1);
  if (begin > region_.size() || bytes > region_.size() - begin) {
    return fail(
        Errc::too_large,
        fmt::format("{} asked of a consumer's region of {} with {} in use; give it more (`buffers` in "
                    "the configuration)",
                    format_bytes(bytes), format_bytes(region_.size()), format_bytes(used_bytes_)));
  }
  used_bytes_ = begin + bytes;
  return region_.subspan(begin, bytes);
}

uint64_t Consumer::address(const void* pointer) const {
  const uint64_t address = kvpool_address(handle_.get(), pointer);
  KVPOOL_ASSERT(address != UINT64_MAX);
  return address;
}

Status Consumer::add_region(std::span<std::byte> memory) {
  const kvpool_status status = kvpool_region_add(handle_.get(), memory.data(), memory.size());
  if (status != KVPOOL_OK) return api_failure(status, {}, "adding a region");
  return {};
}

Consumer::Slot& Consumer::slot_of(Ticket ticket) {
  KVPOOL_ASSERT(ticket.slot < slots_max);
  Slot& slot = (*slots_)[ticket.slot];
  KVPOOL_ASSERT(slot.used && slot.generation == ticket.generation);
  return slot;
}

const Consumer::Slot& Consumer::slot_of(Ticket ticket) const {
  return const_cast<Consumer*>(this)->slot_of(ticket);
}

// Sends slot `index`'s request. Its user_data carries the slot's number, so that a completion finds it.
Status Consumer::send(uint32_t index) {
  Slot& slot = (*slots_)[index];
  slot.request.raw().user_data = index;
  slot.has_result = slot.released = false;
  const SteadyClock clock;
  const Nanos begin = clock.now();
  for (;;) {
    const kvpool_status status = call(handle_.get(), slot.request, &slot.ticket);
    if (status == KVPOOL_OK) break;
    if (status != KVPOOL_BUSY) return api_failure(status, {}, "a request was refused");
    if (clock.now() - begin > patience) return fail(Errc::busy, "the pool stayed busy");
    if (poll() == 0) wait(retry_pause);
  }
  ++outstanding_;
  return {};
}

Result<Ticket> Consumer::submit(const Request& request) {
  if (free_slots_.empty()) {
    return fail(Errc::too_large, fmt::format("{} tickets were submitted and not finished", slots_max));
  }
  const uint32_t index = free_slots_.back();
  Slot& slot = (*slots_)[index];
  slot.request = request;
  slot.outcome = {};
  slot.outcome.submitted_at = SteadyClock().now();
  if (const Status status = send(index); !status) return tl::unexpected(status.error());
  free_slots_.pop_back();
  slot.used = true;
  return Ticket{index, ++slot.generation};
}

void Consumer::take(const kvpool_completion& completion) {
  KVPOOL_ASSERT(completion.user_data < slots_max);
  Slot& slot = (*slots_)[completion.user_data];
  KVPOOL_ASSERT(slot.ticket == completion.ticket && !slot.released);
  const Nanos now = SteadyClock().now();
  if (completion.kind == KVPOOL_RELEASE) {
    KVPOOL_ASSERT(slot.has_result);
    slot.released = true;
    slot.outcome.released_at = now;
    --outstanding_;
    return;
  }
  KVPOOL_ASSERT(!slot.has_result);
  slot.has_result = true;
  Outcome& outcome = slot.outcome;
  outcome.code = to_errc(completion.status);
  outcome.blocks = completion.blocks;
  outcome.segments = completion.segments;
  outcome.bytes = completion.bytes;
  outcome.pin = completion.pin;
  outcome.estimate = std::chrono::microseconds(completion.estimate_us);
  outcome.result_at = now;
}

uint32_t Consumer::poll() {
  std::array<kvpool_completion, 64> completions;
  const uint32_t count = kvpool_poll(handle_.get(), completions.data(), completions.size());
  for (uint32_t i = 0; i < count; ++i) take(completions[i]);
  return count;
}

void Consumer::wait(Nanos timeout) { kvpool_wait(handle_.get(), to_microseconds(timeout)); }

bool Consumer::has_result(Ticket ticket) const { return slot_of(ticket).has_result; }
bool Consumer::is_released(Ticket ticket) const { return slot_of(ticket).released; }

uint32_t Consumer::progress(Ticket ticket) const {
  const Slot& slot = slot_of(ticket);
  // Once the ticket has ended the pool may have given its counter to another.
  return slot.has_result ? slot.outcome.segments : kvpool_progress(handle_.get(), slot.ticket);
}

Status Consumer::cancel(Ticket ticket) {
  const kvpool_status status = kvpool_cancel(handle_.get(), slot_of(ticket).ticket);
  if (status != KVPOOL_OK) return api_failure(status, {}, "cancelling");
  return {};
}

// Until the slot has its result (or its release), with any number of Busy answers sent again.
Status Consumer::await(uint32_t index, bool released) {
  Slot& slot = (*slots_)[index];
  const SteadyClock clock;
  const Nanos begin = clock.now();
  for (;;) {
    const bool refused = slot.has_result && slot.outcome.code == Errc::busy;
    if (refused && slot.released) {
      wait(retry_pause);
      if (const Status status = send(index); !status) return status;
    } else if (!refused && (released ? slot.released : slot.has_result)) {
      return {};
    }
    if (const Nanos waited = clock.now() - begin; waited > patience) {
      return fail(Errc::timed_out,
                  fmt::format("a ticket had no {} after {} s", slot.has_result ? "release" : "result",
                              waited.count() / 1'000'000'000));
    }
    if (poll() == 0) wait(nap_max);
  }
}

Result<Outcome> Consumer::result(Ticket ticket) {
  const Slot& slot = slot_of(ticket);
  if (const Status status = await(ticket.slot, false); !status) return tl::unexpected(status.error());
  return slot.outcome;
}

Result<Outcome> Consumer::finish(Ticket ticket) {
  Slot& slot = slot_of(ticket);
  if (const Status status = await(ticket.slot, true); !status) return tl::unexpected(status.error());
  slot.used = false;
  free_slots_.push_back(ticket.slot);
  return slot.outcome;
}

Result<Outcome> Consumer::run(const Request& request) {
  const auto ticket = submit(request);
  if (!ticket) return tl::unexpected(ticket.error());
  return finish(*ticket);
}

}  // namespace kvpool::bench
