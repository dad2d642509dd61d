#include "actor.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvpool::sim {
namespace {

constexpr std::byte poison_byte{0xEE};
constexpr uint64_t patient_ns = 20'000'000'000;
constexpr uint32_t chains = 6;
constexpr uint32_t first_max = 5;  // of a run that does not start at its root
constexpr uint32_t depth_max = first_max + 12;
constexpr size_t keys_at = 0;
constexpr size_t addresses_at = 512;
constexpr size_t places_at = 2048;
constexpr size_t data_at = 4096;
// So that an odd length neither is aligned nor overlaps the next.
constexpr size_t slot_bytes = 12 * 1024;

uint64_t identity(NamespaceId ns, const BlockKey& key) { return payload_seed(ns, key, 0); }

}  // namespace

Actor::Actor(World& world, uint32_t number, uint64_t seed, uint32_t jobs)
    : world_(world), prng_(seed), region_(jobs_max * job_bytes + 8192), jobs_(jobs_max), jobs_left_(jobs) {
  port_.name = fmt::format("actor {}", number);
  // Aligned or not: both must work.
  std::byte* base = region_.data();
  base += (4096 - reinterpret_cast<uintptr_t>(base) % 4096) % 4096;
  if (prng_.chance(0.3)) base += 64;
  const bool added = port_.regions.add({base, jobs_max * job_bytes});
  if (!added || world.engine().attach(port_) != Errc::ok) world.fail("an actor cannot attach");
  for (uint32_t i = 0; i < jobs_max; ++i) {
    jobs_[i].memory = {base + i * job_bytes, job_bytes};
    poison(jobs_[i]);
  }
}

void Actor::poison(Job& job) const { std::ranges::fill(job.memory.first(job.used_bytes), poison_byte); }

void Actor::check_poison() {
  for (const Job& job : jobs_) {
    if (job.active) continue;
    const auto used = job.memory.first(job.used_bytes);
    if (!std::ranges::all_of(used, [](std::byte b) { return b == poison_byte; })) {
      world_.fail(fmt::format("{}: memory was touched after its release", port_.name));
      return;
    }
  }
}

bool Actor::is_done() const {
  return closed_ || (jobs_left_ == 0 && std::ranges::none_of(jobs_, &Job::active));
}

Nanos Actor::next_time() const { return closed_ || jobs_left_ == 0 ? never : rest_until_; }

bool Actor::act() {
  if (closed_) return take_completions();
  bool acted = take_completions();
  if (prng_.chance(0.1)) check_held();
  for (Job& job : jobs_) {
    if (job.active && job.message.op == Op::retrieve) check_progress(job);
    if (job.active && !job.has_result && !job.cancel_sent && prng_.chance(0.01)) {
      Submission cancel;
      cancel.op = Op::cancel;
      cancel.slot = job.message.slot;
      cancel.user_data = job.message.user_data;
      job.cancel_sent = port_.channel.submissions.push(cancel);
      acted = true;
    }
  }
  if (jobs_left_ > 0 && world_.clock().now() >= rest_until_) {
    acted |= start_something();
    rest_until_ = world_.clock().now() + Nanos(prng_.below(2'000'000));
  }
  return acted;
}

bool Actor::take_completions() {
  bool any = false;
  Completion completion;
  while (port_.channel.completions.pop(completion)) {
    any = true;
    if (completion.slot >= jobs_max || !jobs_[completion.slot].active) {
      world_.fail(fmt::format("{}: a completion for a slot that is free", port_.name));
      continue;
    }
    Job& job = jobs_[completion.slot];
    if (completion.kind == CompletionKind::result) {
      on_result(job, completion);
    } else {
      on_release(job);
    }
  }
  return any;
}

void Actor::on_result(Job& job, const Completion& completion) {
  if (job.has_result) world_.fail("two results for one ticket");
  job.has_result = true;
  job.found_blocks = completion.blocks;
  const Nanos took = world_.clock().now() - job.started;
  const Nanos allowed =
      Nanos(static_cast<Nanos::rep>(job.message.timeout_ns)) + std::chrono::milliseconds(50);
  if (job.message.timeout_ns != 0 && took > allowed) {
    world_.fail(fmt::format("a result came {} us after its deadline", (took - allowed).count() / 1000));
  }
  if (completion.code == Errc::timed_out) {
    ++counts_.timed_out;
    // Nothing here takes a tenth of that, what is stuck included: it can only have been forgotten.
    if (job.message.timeout_ns == patient_ns) {
      world_.fail(fmt::format("a request waited in vain: {}", world_.engine().outstanding()));
    }
  }
  switch (job.message.op) {
    case Op::retrieve:
      return check_retrieve(job, completion);
    case Op::store:
      counts_.stored_blocks += completion.blocks;
      return;
    case Op::match:
      if (completion.pin.value == 0) return;
      job.keys.resize(completion.blocks);
      // Some pins are left for whoever finds them.
      if (prng_.chance(0.3)) {
        world_.loose_pins.push_back(completion.pin);
      }
      pins_.emplace_back(completion.pin, job.keys);
      pin_namespaces_.push_back(job.message.ns);
      return;
    default:
      return;
  }
}

void Actor::on_release(Job& job) {
  if (!job.has_result) world_.fail("a release before its result");
  job.active = false;
  poison(job);
}

void Actor::check_segment(const Job& job, uint32_t block, uint32_t column, const char* when) {
  const uint32_t segment = job.message.segment_first + column;
  const Geometry& geometry = world_.catalog().geometry(job.message.ns);
  const std::byte* place = place_of(job, block, column);
  if (place != nullptr && world_.memory_rots()) return;
  const std::byte* data = place != nullptr ? place : data_of(job, block, column);
  const std::span<const std::byte> bytes{data, geometry.segment_bytes[segment]};
  if (!is_payload(bytes, payload_seed(job.message.ns, job.keys[block], segment))) {
    world_.fail(
        fmt::format("wrong bytes {}: block {} of {}, segment {}", when, block, job.keys.size(), segment));
  }
}

const std::byte* Actor::place_of(const Job& job, uint32_t block, uint32_t column) {
  if ((job.message.flags & flag_in_place) == 0) return nullptr;
  const auto* places = reinterpret_cast<const std::byte* const*>(job.memory.data() + places_at);
  return places[size_t{block} * job.columns + column];
}

void Actor::hold(const Job& job, uint32_t block, uint32_t column) {
  const std::byte* place = place_of(job, block, column);
  if (place == nullptr) return;
  ++counts_.left_in_place;
  const PinId pin = job.message.pin;
  if (std::ranges::none_of(pins_, [&](const auto& its) { return its.first == pin; })) return;
  const uint32_t segment = job.message.segment_first + column;
  held_.push_back({.pin = pin,
                   .place = place,
                   .bytes = world_.catalog().geometry(job.message.ns).segment_bytes[segment],
                   .payload = payload_seed(job.message.ns, job.keys[block], segment)});
}

void Actor::check_held() {
  if (world_.memory_rots()) return;
  for (const Held& held : held_) {
    if (is_payload({held.place, held.bytes}, held.payload)) continue;
    world_.fail(fmt::format("{}: a segment that is pinned in place has changed", port_.name));
    return;
  }
}

void Actor::forget_held(PinId pin) {
  check_held();
  std::erase_if(held_, [&](const Held& held) { return held.pin == pin; });
}

void Actor::check_retrieve(Job& job, const Completion& completion) {
  if (completion.code == Errc::invalid_argument || completion.code == Errc::busy) return;
  const Geometry& geometry = world_.catalog().geometry(job.message.ns);
  if (completion.code == Errc::ok && completion.blocks != job.message.blocks)
    world_.fail("ok, but too few blocks");
  for (uint32_t i = 0; i < job.message.blocks * job.columns; ++i) {
    const std::byte* place = place_of(job, i / job.columns, i % job.columns);
    if (place != nullptr && !world_.is_pool_memory(place, 1)) world_.fail("a place outside of the pool");
  }
  for (uint32_t column = 0; column < completion.segments && completion.blocks > 0; ++column) {
    const uint32_t segment = job.message.segment_first + column;
    const bool window = geometry.is_window(segment);
    for (uint32_t block = window ? completion.blocks - 1 : 0; block < completion.blocks; ++block) {
      check_segment(job, block, column, "in a result");
      hold(job, block, column);
    }
  }
  for (uint32_t block = 0; block < completion.blocks; ++block) {
    if (!world_.ever_stored.contains(identity(job.message.ns, job.keys[block]))) {
      world_.fail("a block that nobody stored");
    }
  }
  if (completion.code == Errc::ok || completion.code == Errc::miss)
    counts_.retrieved_blocks += completion.blocks;
}

// The first block's reported segments must be right at once, while the rest is under way (windows apart,
// which are in the last block alone).
void Actor::check_progress(Job& job) {
  if (job.has_result || job.message.slot >= slots_max) return;
  const uint32_t progress = port_.channel.progress[job.message.slot].load();
  if (progress < job.seen_progress) world_.fail("progress went back");
  if (progress > job.columns) world_.fail("progress beyond what was asked for");
  const Geometry& geometry = world_.catalog().geometry(job.message.ns);
  for (uint32_t column = job.seen_progress; column < std::min(progress, job.columns); ++column) {
    if (!geometry.is_window(job.message.segment_first + column))
      check_segment(job, 0, column, "reported by progress");
  }
  job.seen_progress = progress;
}

std::byte* Actor::data_of(const Job& job, uint32_t block, uint32_t column) const {
  return job.memory.data() + data_at + (size_t{block} * job.columns + column) * slot_bytes;
}

void Actor::lay_out(Job& job, Submission& message, uint32_t blocks, uint32_t columns, bool fill) {
  job.columns = columns;
  job.used_bytes = data_at + size_t{blocks} * columns * slot_bytes;
  auto* keys = reinterpret_cast<BlockKey*>(job.memory.data() + keys_at);
  auto* addresses = reinterpret_cast<RegionAddress*>(job.memory.data() + addresses_at);
  std::copy(job.keys.begin(), job.keys.end(), keys);
  const Geometry& geometry = world_.catalog().geometry(message.ns);
  for (uint32_t block = 0; block < blocks; ++block) {
    for (uint32_t column = 0; column < columns; ++column) {
      std::byte* data = data_of(job, block, column);
      addresses[block * columns + column] = address(data);
      const uint32_t segment = message.segment_first + column;
      if (!fill) continue;
      fill_payload({data, geometry.segment_bytes[segment]},
                   payload_seed(message.ns, job.keys[block], segment));
    }
  }
  message.keys = address(keys);
  message.buffers = address(addresses);
  message.places = address(job.memory.data() + places_at);
}

void Actor::choose_run(Job& job, Submission& message) {
  message.ns = NamespaceId(static_cast<uint16_t>(prng_.below(world_.namespaces())));
  const auto chain = static_cast<uint32_t>(prng_.below(chains));
  const uint32_t first = prng_.chance(0.7) ? 0 : static_cast<uint32_t>(prng_.below(first_max + 1));
  choose_blocks(job, message, chain, first, static_cast<uint32_t>(prng_.between(1, blocks_max)));
}

void Actor::choose_blocks(Job& job, Submission& message, uint32_t chain, uint32_t first,
                          uint32_t blocks) const {
  message.blocks = blocks;
  job.keys.clear();
  for (uint32_t i = 0; i < message.blocks; ++i) job.keys.push_back(world_.key(message.ns, chain, first + i));
  if (first > 0 && !world_.is_flat(message.ns)) {
    message.flags |= flag_has_parent;
    message.parent = world_.key(message.ns, chain, first - 1);
  }
}

bool Actor::start_something() {
  const auto free = std::ranges::find_if(jobs_, [](const Job& job) { return !job.active; });
  if (free == jobs_.end()) return false;
  if (prng_.chance(0.25)) check_poison();
  Job& job = *free;
  Submission message;
  message.slot = static_cast<uint16_t>(free - jobs_.begin());
  message.user_data = prng_.next();
  message.timeout_ns = prng_.chance(0.2) ? prng_.between(10'000, 5'000'000) : patient_ns;
  --jobs_left_;
  const double dice = prng_.unit();
  if (dice < 0.35) {
    start_store(job, message);
  } else if (dice < 0.6) {
    start_retrieve(job, message);
  } else if (dice < 0.72) {
    choose_run(job, message);
    message.op = Op::match;
    message.flags |= flag_pin;
    lay_out(job, message, 0, 1, false);
    start(job, message);
  } else if (dice < 0.93) {
    start_with_pin(job, message);
  } else if (dice < 0.97) {
    choose_run(job, message);
    message.op = Op::remove;
    lay_out(job, message, 0, 1, false);
    start(job, message);
  } else {
    start_nonsense(job);
  }
  return true;
}

void Actor::start(Job& job, Submission message) {
  job.message = message;
  job.active = true;
  job.has_result = false;
  job.cancel_sent = false;
  job.seen_progress = 0;
  job.started = world_.clock().now();
  port_.channel.progress[message.slot].store(0, std::memory_order_relaxed);
  if (!port_.channel.submissions.push(message)) world_.fail("the submission ring is full");
}

void Actor::start_store(Job& job, Submission message) {
  choose_run(job, message);
  message.op = Op::store;
  lay_out(job, message, message.blocks, world_.catalog().geometry(message.ns).segments(), true);
  for (const BlockKey& key : job.keys) world_.ever_stored.insert(identity(message.ns, key));
  start(job, message);
}

void Actor::start_retrieve(Job& job, Submission message) {
  choose_run(job, message);
  message.op = Op::retrieve;
  const uint32_t segments = world_.catalog().geometry(message.ns).segments();
  message.segment_first = static_cast<uint16_t>(prng_.chance(0.5) ? 0 : prng_.below(segments));
  message.segment_count = static_cast<uint16_t>(segments - message.segment_first);
  lay_out(job, message, message.blocks, message.segment_count, false);
  start(job, message);
}

// Retrieve, stage, estimate or unpin: of its own pins, or of one that it found.
void Actor::start_with_pin(Job& job, Submission message) {
  if (pins_.empty()) return start_retrieve(job, message);
  const size_t index = prng_.below(pins_.size());
  const auto [pin, keys] = pins_[index];
  message.pin = pin;
  message.ns = pin_namespaces_[index];
  const double dice = prng_.unit();
  message.op = dice < 0.5 ? Op::retrieve : dice < 0.7 ? Op::stage : dice < 0.8 ? Op::estimate : Op::unpin;
  message.block_first = static_cast<uint32_t>(prng_.below(keys.size()));
  message.blocks = static_cast<uint32_t>(keys.size()) - message.block_first;
  job.keys.assign(keys.begin() + message.block_first, keys.end());
  if (message.op == Op::retrieve) {
    const uint32_t segments = world_.catalog().geometry(message.ns).segments();
    message.segment_count = static_cast<uint16_t>(segments);
    lay_out(job, message, message.blocks, segments, false);
    if (prng_.chance(0.6)) message.flags |= flag_in_place;
  }
  const bool in_place = (message.flags & flag_in_place) != 0;
  const bool may_take = !in_place || prng_.chance(0.1);  // which is refused
  const bool takes = message.op != Op::estimate && may_take && (message.op == Op::unpin || prng_.chance(0.3));
  if (takes && message.op != Op::unpin) message.flags |= flag_take_pin;
  if (takes) {
    forget_held(pin);
    pins_.erase(pins_.begin() + static_cast<ptrdiff_t>(index));
    pin_namespaces_.erase(pin_namespaces_.begin() + static_cast<ptrdiff_t>(index));
  }
  start(job, message);
}

void Actor::start_nonsense(Job& job) {
  Submission message;
  message.slot = static_cast<uint16_t>(&job - jobs_.data());
  message.op = static_cast<Op>(prng_.below(7));
  message.ns = NamespaceId(static_cast<uint16_t>(prng_.below(100)));
  message.blocks = static_cast<uint32_t>(prng_.next());
  message.keys = RegionAddress(prng_.next());
  message.buffers = RegionAddress(prng_.next());
  message.pin = PinId(prng_.next());
  message.places = RegionAddress(prng_.next());
  message.flags = static_cast<uint8_t>(prng_.next());
  message.segment_first = static_cast<uint16_t>(prng_.next());
  message.segment_count = static_cast<uint16_t>(prng_.next());
  job.keys.clear();
  job.columns = 0;
  job.used_bytes = 0;
  start(job, message);
}

void Actor::retrieve_all() {
  Job& job = jobs_[0];
  for (uint16_t ns = 0; ns < world_.namespaces(); ++ns) {
    for (uint32_t chain = 0; chain < chains; ++chain) {
      for (uint32_t depth = 0; depth < depth_max; depth += std::max(1U, job.found_blocks)) {
        Submission message;
        message.op = Op::retrieve;
        message.ns = NamespaceId(ns);
        message.timeout_ns = patient_ns;
        choose_blocks(job, message, chain, depth, std::min(blocks_max, depth_max - depth));
        message.segment_count = static_cast<uint16_t>(world_.catalog().geometry(message.ns).segments());
        lay_out(job, message, message.blocks, message.segment_count, false);
        start(job, message);
        job.cancel_sent = true;  // it is not to be cancelled
        world_.run_until([&job] { return !job.active; });
      }
    }
  }
}

void Actor::close() {
  if (closed_) return;
  check_held();
  held_.clear();
  closed_ = true;
  world_.engine().close(port_);
}

}  // namespace kvpool::sim
