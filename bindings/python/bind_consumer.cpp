// How Python's arguments become requests.

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "buffer.h"
#include "consumer.h"
#include "error.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvpool::python {
namespace {

constexpr size_t key_bytes = sizeof(kvpool_key);

kvpool_key key_at(const void* bytes) {
  kvpool_key key;
  std::memcpy(&key, bytes, sizeof key);
  if constexpr (std::endian::native == std::endian::little) {
    key.high = __builtin_bswap64(key.high);
    key.low = __builtin_bswap64(key.low);
  }
  return key;
}

[[noreturn]] void refuse(const std::string& why) { throw PoolError(KVPOOL_INVALID_ARGUMENT, why); }

}  // namespace

kvpool_key key_from(const nb::bytes& bytes) {
  if (bytes.size() != key_bytes) refuse("a key is 16 bytes");
  return key_at(bytes.data());
}

std::vector<kvpool_key> keys_from(nb::handle object) {
  std::vector<kvpool_key> keys;
  if (nb::isinstance<nb::list>(object) || nb::isinstance<nb::tuple>(object)) {
    keys.reserve(nb::len(object));
    for (const nb::handle item : object) {
      if (!nb::isinstance<nb::bytes>(item)) refuse("a key is 16 bytes");
      keys.push_back(key_from(nb::borrow<nb::bytes>(item)));
    }
    return keys;
  }
  Kept kept;
  Memory memory;
  try {
    memory = memory_of(object, false, kept);
  } catch (const nb::builtin_exception&) {
    refuse("keys are a list of 16 bytes each, or one buffer of them all");
  }
  if (memory.bytes % key_bytes != 0) refuse("keys are 16 bytes each");
  for (size_t at = 0; at < memory.bytes; at += key_bytes) {
    keys.push_back(key_at(static_cast<const std::byte*>(memory.data) + at));
  }
  return keys;
}

namespace {

struct Segments {
  uint32_t first = 0;
  uint32_t count = 0;
};

void want_bytes(const Memory& memory, uint64_t bytes, const char* what) {
  if (memory.bytes == bytes) return;
  refuse(std::string(what) + " holds " + std::to_string(memory.bytes) + " bytes; " + std::to_string(bytes) +
         " are wanted");
}

// One buffer for everything, a block after the other; or one for each segment, a block after the other.
void add_buffers(Order& order, const Consumer& consumer, const Namespace& ns, nb::handle buffers,
                 uint32_t blocks, Segments segments) {
  const bool writable = order.op == Op::retrieve;
  const auto bytes_of = [&](uint32_t column) { return ns.segment_bytes[segments.first + column]; };
  order.addresses.resize(size_t{blocks} * segments.count);
  const auto place = [&](uint32_t block, uint32_t column, const void* data, uint64_t offset) {
    order.addresses[size_t{block} * segments.count + column] =
        consumer.address(static_cast<const std::byte*>(data) + offset);
  };
  if (nb::isinstance<nb::list>(buffers) || nb::isinstance<nb::tuple>(buffers)) {
    if (nb::len(buffers) != segments.count) {
      refuse("there are " + std::to_string(nb::len(buffers)) + " buffers; one for each of " +
             std::to_string(segments.count) + " segments is wanted");
    }
    for (uint32_t column = 0; column < segments.count; ++column) {
      const Memory memory = memory_of(buffers[column], writable, order.kept);
      want_bytes(memory, uint64_t{blocks} * bytes_of(column), "a segment's buffer");
      for (uint32_t block = 0; block < blocks; ++block) {
        place(block, column, memory.data, uint64_t{block} * bytes_of(column));
      }
    }
    return;
  }
  uint64_t of_block = 0;
  for (uint32_t column = 0; column < segments.count; ++column) of_block += bytes_of(column);
  const Memory memory = memory_of(buffers, writable, order.kept);
  want_bytes(memory, blocks * of_block, "the buffer");
  uint64_t offset = 0;
  for (uint32_t block = 0; block < blocks; ++block) {
    for (uint32_t column = 0; column < segments.count; ++column) {
      place(block, column, memory.data, offset);
      offset += bytes_of(column);
    }
  }
}

void set_chain(Order& order, const Consumer& consumer, const Namespace& ns, nb::handle keys,
               const std::optional<nb::bytes>& parent, double timeout_s) {
  if (ns.pool != consumer.pool()->id()) refuse("the namespace is of another pool than the consumer");
  order.request.ns = ns.number;
  order.request.timeout_us = timeout_s < 0 ? 0 : std::max<uint64_t>(1, microseconds(timeout_s));
  if (!keys.is_none()) {
    order.keys = keys_from(keys);
    if (order.keys.empty()) refuse("there are no keys; one or more are wanted");
  }
  order.request.blocks = static_cast<uint32_t>(order.keys.size());
  if (!parent) return;
  order.request.has_parent = 1;
  order.request.parent = key_from(*parent);
}

std::shared_ptr<Request> match(Consumer& consumer, const Namespace& ns, nb::handle keys,
                               const std::optional<nb::bytes>& parent, bool pin) {
  Order order;
  order.op = Op::match;
  set_chain(order, consumer, ns, keys, parent, -1);
  order.request.flags = pin ? KVPOOL_PIN : 0;
  return consumer.send(std::move(order));
}

std::shared_ptr<Request> store(Consumer& consumer, const Namespace& ns, nb::handle keys, nb::handle buffers,
                               const std::optional<nb::bytes>& parent, double timeout_s) {
  Order order;
  order.op = Op::store;
  set_chain(order, consumer, ns, keys, parent, timeout_s);
  add_buffers(order, consumer, ns, buffers, order.request.blocks, {0, ns.segments()});
  return consumer.send(std::move(order));
}

void take_run(Order& order, const Consumer& consumer, const Pin& pin, uint32_t block_first,
              const std::optional<uint32_t>& blocks) {
  order.request.pin = pin.number();
  if (pin.number() == 0) refuse("the pin is released");
  if (!pin.is_of(*consumer.pool())) refuse("the pin is of another pool than the consumer");
  const uint32_t left = pin.blocks() - std::min(block_first, pin.blocks());
  const uint32_t wanted = blocks.value_or(left);
  if (wanted == 0 || wanted > left) {
    refuse("the pin's run has " + std::to_string(pin.blocks()) + " blocks; block_first " +
           std::to_string(block_first) + " and blocks " + std::to_string(wanted) +
           " choose none of it, or more");
  }
  order.request.block_first = block_first;
  order.request.blocks = wanted;
}

std::shared_ptr<Request> retrieve(Consumer& consumer, const Namespace& ns, nb::handle keys_or_pin,
                                  nb::handle buffers, uint32_t block_first,
                                  const std::optional<uint32_t>& blocks, uint32_t segment_first,
                                  const std::optional<uint32_t>& segment_count, double timeout_s) {
  Order order;
  order.op = Op::retrieve;
  std::shared_ptr<Pin> pin;
  if (nb::try_cast(keys_or_pin, pin) && pin) {
    set_chain(order, consumer, ns, nb::none(), {}, timeout_s);
    take_run(order, consumer, *pin, block_first, blocks);
    if (!pin->is_of(ns)) refuse("the pin is of another namespace");
    order.kept.push_back(pin);  // it outlives the request
  } else {
    set_chain(order, consumer, ns, keys_or_pin, {}, timeout_s);
    if (block_first != 0 || blocks.value_or(order.request.blocks) != order.request.blocks) {
      refuse("block_first and blocks choose a part of a pin's run; of keys, pass those that are wanted");
    }
  }
  if (segment_first >= ns.segments() || segment_count.value_or(1) > ns.segments() - segment_first ||
      segment_count == 0U) {
    refuse("a block has " + std::to_string(ns.segments()) +
           " segments; segment_first and segment_count choose none, or more");
  }
  order.request.segment_first = segment_first;
  order.request.segment_count = segment_count.value_or(ns.segments() - segment_first);
  add_buffers(order, consumer, ns, buffers, order.request.blocks,
              {segment_first, order.request.segment_count});
  return consumer.send(std::move(order));
}

std::shared_ptr<Request> stage(Consumer& consumer, const std::shared_ptr<Pin>& pin, uint32_t block_first,
                               const std::optional<uint32_t>& blocks, double timeout_s) {
  Order order;
  order.op = Op::stage;
  order.request.timeout_us = timeout_s < 0 ? 0 : std::max<uint64_t>(1, microseconds(timeout_s));
  take_run(order, consumer, *pin, block_first, blocks);
  order.kept.push_back(pin);
  return consumer.send(std::move(order));
}

std::shared_ptr<Request> estimate(Consumer& consumer, const std::shared_ptr<Pin>& pin) {
  Order order;
  order.op = Op::estimate;
  take_run(order, consumer, *pin, 0, {});
  order.kept.push_back(pin);
  return consumer.send(std::move(order));
}

std::shared_ptr<Request> remove(Consumer& consumer, const Namespace& ns, nb::handle keys) {
  Order order;
  order.op = Op::remove;
  set_chain(order, consumer, ns, keys, {}, -1);
  return consumer.send(std::move(order));
}

using Region = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>, nb::device::cpu>;

Region region(const std::shared_ptr<Consumer>& consumer) {
  const std::span<std::byte> bytes = consumer->region();
  const nb::capsule owner(new Consumer::Lent(consumer),
                          [](void* lent) noexcept { delete static_cast<Consumer::Lent*>(lent); });
  return Region(bytes.data(), {bytes.size()}, owner);
}

nb::object status_of(const Result& result) {
  return nb::module_::import_("kvpool.errors").attr("Status")(static_cast<int>(result.status));
}

std::string describe(const Pin& pin) {
  return "<kvpool.Pin: " + std::to_string(pin.blocks()) + " blocks, " +
         (pin.number() != 0 ? "held>" : "released>");
}

std::string describe(const Result& result) {
  return std::string("<kvpool.Result: ") + kvpool_status_string(result.status) + ", " +
         std::to_string(result.blocks) + " blocks, " + std::to_string(result.bytes) +
         (result.pin != nullptr ? " bytes, with a pin>" : " bytes>");
}

std::string describe(const Request& request) {
  if (!request.done()) return "<kvpool.Request: under way>";
  return request.released() ? "<kvpool.Request: done>"
                            : "<kvpool.Request: done, its buffers not yet released>";
}

template <class Object>
std::string repr(const Object& object) {
  return describe(object);
}

void bind_results(nb::module_& module) {
  nb::class_<Pin>(module, "Pin",
                  "A pinned run: its blocks stay while it is held. release() or a with-block gives it back.")
      .def("release", &Pin::release)
      .def_prop_ro("held", [](const Pin& pin) { return pin.number() != 0; })
      .def_prop_ro("blocks", &Pin::blocks)
      .def("__repr__", &repr<Pin>)
      .def("__enter__", [](std::shared_ptr<Pin> pin) { return pin; })
      .def(
          "__exit__", [](Pin& pin, nb::handle, nb::handle, nb::handle) { pin.release(); }, nb::arg().none(),
          nb::arg().none(), nb::arg().none());
  nb::class_<Result>(module, "Result", "What a request came to.")
      .def_prop_ro("status", &status_of)
      .def_ro("blocks", &Result::blocks)
      .def_ro("segments", &Result::segments)
      .def_ro("bytes", &Result::bytes)
      .def_ro("estimate_s", &Result::estimate_s)
      .def_ro("pin", &Result::pin, nb::for_getter(nb::sig("def pin(self) -> Pin | None")))
      .def_prop_ro("ok", [](const Result& result) { return result.status == KVPOOL_OK; })
      .def("__repr__", &repr<Result>);
  nb::class_<Request>(module, "Request", "A request under way: a future, and an awaitable.")
      .def("done", &Request::done, "Whether its result was taken: by result(), an await, or Consumer.poll().")
      .def("cancelled", &Request::cancelled, "Whether it is done, and ended early since it was to.")
      .def("released", &Request::released)
      .def("result", &Request::result, "timeout_s"_a = -1.0)
      .def("wait_released", &Request::wait_released, "timeout_s"_a = -1.0)
      .def("cancel", &Request::cancel)
      .def_prop_ro("progress", &Request::progress)
      .def_prop_ro("consumer", &Request::consumer)
      .def("__repr__", &repr<Request>)
      .def(
          "__await__",
          [](nb::handle self) { return nb::module_::import_("kvpool._awaiting").attr("wait")(self); },
          nb::sig("def __await__(self) -> collections.abc.Generator[typing.Any, None, Result]"));
}

}  // namespace

// [count][16] bytes: of every step-th hash from `first` on, as many as there are, the first 16.
nb::bytes pack_keys(const nb::list& hashes, size_t first, size_t count, size_t step) {
  if (step == 0) refuse("a step of 0");
  count = std::min(count, hashes.size());
  std::vector<char> packed;
  packed.reserve(key_bytes * count);
  for (size_t i = first; packed.size() < key_bytes * count && i < hashes.size(); i += step) {
    const nb::handle hash = hashes[i];
    if (!nb::isinstance<nb::bytes>(hash)) refuse("a hash is no bytes");
    const auto bytes = nb::borrow<nb::bytes>(hash);
    if (bytes.size() < key_bytes) refuse("a hash has less than the 16 bytes of a key");
    const auto* const start = static_cast<const char*>(bytes.data());
    packed.insert(packed.end(), start, start + key_bytes);
  }
  return nb::bytes(packed.data(), packed.size());
}

void bind_consumer(nb::module_& module) {
  bind_results(module);
  module.def("pack_keys", &pack_keys, "hashes"_a, "first"_a, "count"_a, "step"_a,
             "The first 16 bytes of every step-th hash, as many as there are, one after the other.");
  nb::class_<Consumer>(module, "Consumer")
      .def_static("open", &Consumer::open, "pool"_a, "name"_a, "region_bytes"_a)
      .def("close", &Consumer::close, "timeout_s"_a = -1.0)
      .def_prop_ro("closed", &Consumer::closed)
      .def_prop_ro("region", &region, nb::rv_policy::reference)
      .def("poll", &Consumer::poll,
           "Takes what has ended, without waiting: done(), released() and progress of requests tell it then.")
      .def("fileno", &Consumer::event_fd, "Becomes readable when something ends after arm() was true.")
      .def("arm", &Consumer::arm, "False: something has ended meanwhile; poll() first.")
      .def("match", &match, "ns"_a, "keys"_a, "parent"_a = nb::none(), "pin"_a = true)
      .def("store", &store, "ns"_a, "keys"_a, "buffers"_a, "parent"_a = nb::none(), "timeout_s"_a = -1.0)
      .def("retrieve", &retrieve, "ns"_a, "keys"_a, "buffers"_a, "block_first"_a = 0, "blocks"_a = nb::none(),
           "segment_first"_a = 0, "segment_count"_a = nb::none(), "timeout_s"_a = -1.0)
      .def("stage", &stage, "pin"_a, "block_first"_a = 0, "blocks"_a = nb::none(), "timeout_s"_a = -1.0)
      .def("estimate", &estimate, "pin"_a)
      .def("delete", &remove, "ns"_a, "keys"_a);
}

}  // namespace kvpool::python
