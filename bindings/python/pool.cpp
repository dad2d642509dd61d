#include "pool.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>
#include <utility>

#include "consumer.h"
#include "error.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvpool::python {

uint64_t Namespace::block_bytes() const {
  return std::accumulate(segment_bytes.begin(), segment_bytes.end(), uint64_t{0});
}

Pool::Pool(const std::optional<std::string>& path, const std::optional<std::string>& toml,
           const nb::list& memory) {
  std::vector<kvpool_memory> pieces;
  for (const nb::handle buffer : memory) {
    const Memory its = memory_of(buffer, true, memory_);
    pieces.push_back({.base = const_cast<void*>(its.data), .bytes = its.bytes});
  }
  kvpool_options options{};
  options.struct_size = sizeof options;
  options.memory = pieces.data();
  options.memory_count = static_cast<uint32_t>(pieces.size());
  options.config_path = path ? path->c_str() : nullptr;
  options.config_toml = toml ? toml->c_str() : nullptr;
  kvpool_error error{};
  kvpool_status status = KVPOOL_OK;
  {
    const nb::gil_scoped_release released;
    status = kvpool_open(&options, &pool_, &error);
  }
  check(status, error);
}

Pool::~Pool() {
  if (is_inherited()) (void)new Kept(std::move(memory_));
  if (gone()) return;
  kvpool_error ignored{};
  // A device that does not let go keeps its pool: memory that it may still write to must stay.
  constexpr uint64_t most_us = 10'000'000;
  kvpool_status status = KVPOOL_OK;
  {
    const nb::gil_scoped_release released;
    status = kvpool_close(pool_, most_us, &ignored);
  }
  if (status != KVPOOL_OK) (void)new Kept(std::move(memory_));
}

void Pool::close_users(double timeout_s) {
  const std::vector<std::weak_ptr<Closable>> users = users_;  // closing lets others run
  for (const std::weak_ptr<Closable>& weak : users) {
    if (const auto user = weak.lock()) user->close(timeout_s);
  }
  while (delays_ > 0) {
    const nb::gil_scoped_release released;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Pool::close(double timeout_s) {
  if (closed() || closing_) return;
  closing_ = true;  // nobody begins to use it any more
  try {
    close_users(timeout_s);
    if (lent_ == 0) give_back(timeout_s);
    closed_ = true;
  } catch (...) {
    closing_ = false;
    throw;
  }
  closing_ = false;
}

void Pool::give_back(double timeout_s) {
  kvpool_error error{};
  kvpool_status status = KVPOOL_OK;
  {
    const nb::gil_scoped_release released;
    status = kvpool_close(pool_, microseconds(timeout_s), &error);
  }
  check(status, error);
  pool_ = nullptr;
  memory_.clear();
}

// Nothing is under way when it was closed, so that this takes no time.
void Pool::take_back() {
  if (--lent_ > 0 || !closed_ || gone()) return;
  constexpr double most_s = 10;
  try {
    give_back(most_s);
  } catch (const PoolError&) {
    // The destructor tries again.
  }
}

kvpool_pool* Pool::get() const {
  if (is_inherited()) {
    throw PoolError(KVPOOL_CLOSED, "the pool is of the process that forked this one; open one here");
  }
  if (closed() || closing_) throw PoolError(KVPOOL_CLOSED, "the pool is closed");
  return pool_;
}

Namespace Pool::open_namespace(Namespace wanted) {
  const std::vector<uint8_t> window(wanted.window.begin(), wanted.window.end());
  if (!window.empty() && window.size() != wanted.segment_bytes.size()) {
    throw PoolError(KVPOOL_INVALID_ARGUMENT, "`window` wants one entry a segment, or none at all");
  }
  kvpool_geometry geometry{};
  geometry.struct_size = sizeof geometry;
  geometry.name = wanted.name.c_str();
  geometry.block_tokens = wanted.block_tokens;
  geometry.segments = wanted.segments();
  geometry.segment_bytes = wanted.segment_bytes.data();
  geometry.window = window.empty() ? nullptr : window.data();
  geometry.flat = wanted.flat ? 1 : 0;
  kvpool_error error{};
  check(kvpool_namespace_open(get(), &geometry, &wanted.number, &error), error);
  wanted.pool = id_;
  return wanted;
}

nb::dict Pool::stats() const {
  kvpool_stats stats{};
  stats.struct_size = sizeof stats;
  check(kvpool_get_stats(get(), &stats), {});
  nb::dict out;
#define KVPOOL_FIELD(field) out[#field] = stats.field
  KVPOOL_FIELD(ready_blocks);
  KVPOOL_FIELD(live_bytes);
  KVPOOL_FIELD(stored_blocks);
  KVPOOL_FIELD(stored_bytes);
  KVPOOL_FIELD(retrieved_blocks);
  KVPOOL_FIELD(retrieved_bytes);
  KVPOOL_FIELD(evicted_blocks);
  KVPOOL_FIELD(removed_blocks);
  KVPOOL_FIELD(retired_blocks);
  KVPOOL_FIELD(spilled_segments);
  KVPOOL_FIELD(spilled_bytes);
  KVPOOL_FIELD(busy_requests);
  KVPOOL_FIELD(rejected_blocks);
  KVPOOL_FIELD(timed_out_requests);
  KVPOOL_FIELD(cancelled_requests);
  KVPOOL_FIELD(invalid_requests);
  KVPOOL_FIELD(io_errors);
  KVPOOL_FIELD(short_ios);
  KVPOOL_FIELD(checksum_errors);
  KVPOOL_FIELD(stalled_tickets);
  KVPOOL_FIELD(tickets_under_way);
  KVPOOL_FIELD(pins_held);
  KVPOOL_FIELD(catalog_bytes_per_block);
  KVPOOL_FIELD(bounced_bytes);
#undef KVPOOL_FIELD
  return out;
}

nb::list Pool::device_stats() const {
  nb::list all;
  for (uint32_t device = 0; device < kvpool_device_count(get()); ++device) {
    kvpool_device_stats stats{};
    stats.struct_size = sizeof stats;
    check(kvpool_get_device_stats(get(), device, &stats), {});
    nb::dict out;
#define KVPOOL_FIELD(field) out[#field] = stats.field
    KVPOOL_FIELD(name);
    KVPOOL_FIELD(size_bytes);
    KVPOOL_FIELD(used_bytes);
    KVPOOL_FIELD(read_bytes);
    KVPOOL_FIELD(written_bytes);
    KVPOOL_FIELD(reads);
    KVPOOL_FIELD(writes);
    KVPOOL_FIELD(errors);
    KVPOOL_FIELD(busy_us);
    KVPOOL_FIELD(planned_share);
    KVPOOL_FIELD(read_bytes_per_second);
    KVPOOL_FIELD(write_bytes_per_second);
    KVPOOL_FIELD(discarded_bytes);
    out["in_memory"] = stats.in_memory != 0;
#undef KVPOOL_FIELD
    all.append(out);
  }
  return all;
}

void Pool::add(const std::shared_ptr<Closable>& user) {
  std::erase_if(users_, [](const auto& weak) { return weak.expired(); });
  users_.push_back(user);
}

void bind_pool(nb::module_& module) {
  nb::class_<Namespace>(module, "Namespace", "A namespace of a pool: what Pool.namespace() returns.")
      .def_ro("number", &Namespace::number)
      .def_ro("name", &Namespace::name)
      .def_ro("block_tokens", &Namespace::block_tokens)
      .def_ro("segment_bytes", &Namespace::segment_bytes)
      .def_ro("window", &Namespace::window)
      .def_ro("flat", &Namespace::flat)
      .def_prop_ro("block_bytes", &Namespace::block_bytes)
      .def("__repr__", [](const Namespace& ns) {
        return "<kvpool.Namespace '" + ns.name + "': " + std::to_string(ns.block_bytes()) + " bytes in " +
               std::to_string(ns.segments()) + " segments for " + std::to_string(ns.block_tokens) +
               " tokens>";
      });
  nb::class_<Pool>(module, "NativePool")
      .def(nb::init<const std::optional<std::string>&, const std::optional<std::string>&, const nb::list&>(),
           "path"_a = nb::none(), "toml"_a = nb::none(), "memory"_a = nb::list())
      .def("close", &Pool::close, "timeout_s"_a)
      .def_prop_ro("closed", &Pool::closed)
      .def(
          "open_namespace",
          [](Pool& pool, std::string name, uint32_t block_tokens, std::vector<uint32_t> segment_bytes,
             std::vector<bool> window, bool flat) {
            return pool.open_namespace({.name = std::move(name),
                                        .block_tokens = block_tokens,
                                        .segment_bytes = std::move(segment_bytes),
                                        .window = std::move(window),
                                        .flat = flat});
          },
          "name"_a, "block_tokens"_a, "segment_bytes"_a, "window"_a, "flat"_a)
      .def("stats", &Pool::stats, nb::sig("def stats(self) -> dict[str, int | float]"))
      .def("device_stats", &Pool::device_stats,
           nb::sig("def device_stats(self) -> list[dict[str, typing.Any]]"));
}

}  // namespace kvpool::python
