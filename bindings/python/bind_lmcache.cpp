#include "bind_lmcache.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#define XXH_INLINE_ALL
#include <sys/random.h>
#include <xxhash.h>

#include <array>
#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "buffer.h"
#include "consumer.h"
#include "error.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvpool::python {
namespace {

constexpr double destructor_timeout_s = 10;

std::string_view utf8(PyObject* text) {
  Py_ssize_t bytes = 0;
  const char* data = PyUnicode_Check(text) != 0 ? PyUnicode_AsUTF8AndSize(text, &bytes) : nullptr;
  if (data == nullptr) {
    PyErr_Clear();
    throw nb::type_error("a key is a str");
  }
  return {data, static_cast<size_t>(bytes)};
}

// Of this process alone: the pool is empty when it starts. Keys hold what users chose (their salt), and
// whoever knows the secret can make two that are taken for one.
using Secret = std::array<std::byte, XXH3_SECRET_DEFAULT_SIZE>;

Secret make_secret() {
  Secret secret;
  for (size_t filled = 0; filled < secret.size();) {
    const ssize_t got = getrandom(secret.data() + filled, secret.size() - filled, 0);
    if (got > 0) {
      filled += static_cast<size_t>(got);
    } else if (errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "getrandom");
    }
  }
  return secret;
}

// LMCache's keys are chunk hashes with the model, rank, group and salt around them.
kvpool_key key_of(PyObject* text) {
  static const Secret secret = make_secret();
  const std::string_view its = utf8(text);
  const XXH128_hash_t hash = XXH3_128bits_withSecret(its.data(), its.size(), secret.data(), secret.size());
  return {.high = hash.high64, .low = hash.low64};
}

nb::list list_of(nb::handle object) {
  if (PyList_Check(object.ptr()) != 0) return nb::borrow<nb::list>(object);
  // Its letters would be taken one by one.
  if (PyUnicode_Check(object.ptr()) != 0) throw nb::type_error("a list is wanted, not a str");
  PyObject* const list = PySequence_List(object.ptr());
  if (list == nullptr) throw nb::python_error();
  return nb::steal<nb::list>(list);
}

nb::tuple completion_of(const lmcache::Batch& batch) {
  nb::object found = nb::none();
  if (batch.kind != lmcache::BatchKind::set) {
    nb::list bools;
    for (size_t i = 0; i < batch.keys.size(); ++i)
      bools.append(i < batch.found.size() && batch.found[i] != 0);
    found = bools;
  }
  return nb::make_tuple(batch.id, batch.ok, batch.error, found);
}

}  // namespace

LMCacheAdapter::LMCacheAdapter(std::shared_ptr<Pool> pool, const lmcache::WorkerOptions& options)
    : pool_(std::move(pool)) {
  if (options.lengths_max == 0) throw PoolError(KVPOOL_INVALID_ARGUMENT, "lengths_max is 0; it is 1 or more");
  consumer_ = open_consumer(*pool_, "lmcache", 0);
  try {
    worker_ = std::make_unique<lmcache::Worker>(pool_->get(), consumer_, options);
  } catch (...) {  // no descriptor or no thread is left
    (void)kvpool_consumer_close(consumer_, 0, nullptr);
    throw;
  }
}

std::shared_ptr<LMCacheAdapter> LMCacheAdapter::open(std::shared_ptr<Pool> pool,
                                                     const lmcache::WorkerOptions& options) {
  std::shared_ptr<LMCacheAdapter> made(new LMCacheAdapter(std::move(pool), options));
  made->pool_->add(made);
  return made;
}

LMCacheAdapter::~LMCacheAdapter() {
  if (pool_->is_inherited()) {
    (void)worker_.release();
    return;
  }
  try {
    close_with_pool(destructor_timeout_s);
  } catch (const std::exception&) {
    // A device that does not let go keeps what it may still write to.
    (void)worker_.release();
  }
}

uint64_t LMCacheAdapter::submit(lmcache::BatchKind kind, nb::handle keys, nb::handle values) {
  if (closing_) throw PoolError(KVPOOL_CLOSED, "the adapter is closed");
  if (pool_->is_inherited())
    throw PoolError(KVPOOL_CLOSED, "the adapter is another process's, which forked this one");
  auto batch = std::make_unique<lmcache::Batch>();
  batch->kind = kind;
  const nb::list all_keys = list_of(keys);
  batch->keys.reserve(all_keys.size());
  for (size_t i = 0; i < all_keys.size(); ++i) {
    batch->keys.push_back(key_of(PyList_GetItem(all_keys.ptr(), static_cast<Py_ssize_t>(i))));
  }
  if (batch->moves_data()) {
    const nb::list all_values = list_of(values);
    if (all_values.size() != all_keys.size()) {
      throw PoolError(KVPOOL_INVALID_ARGUMENT, "there are " + std::to_string(all_keys.size()) + " keys and " +
                                                   std::to_string(all_values.size()) + " values");
    }
    batch->values.reserve(all_values.size());
    batch->kept.reserve(all_values.size());
    for (size_t i = 0; i < all_values.size(); ++i) {
      PyObject* value = PyList_GetItem(all_values.ptr(), static_cast<Py_ssize_t>(i));
      const Memory memory = memory_of(value, kind == lmcache::BatchKind::get, batch->kept);
      // Only read, where it is to be stored.
      batch->values.push_back({static_cast<std::byte*>(const_cast<void*>(memory.data)), memory.bytes});
    }
  }
  const uint64_t id = ++last_id_;
  batch->id = id;
  if (!worker_->submit(batch)) {
    batch->fail("too many batches are under way");
    worker_->done(std::move(batch));
  }
  return id;
}

nb::list LMCacheAdapter::drain_completions() {
  nb::list completions;
  for (std::unique_ptr<lmcache::Batch>& batch : worker_->take_done()) {
    batch->kept.clear();
    completions.append(completion_of(*batch));
  }
  return completions;
}

void LMCacheAdapter::close(double timeout_s) {
  if (pool_->is_inherited()) return;
  closing_ = true;
  const nb::gil_scoped_release released;
  const std::lock_guard lock(close_mutex_);
  if (consumer_ == nullptr) return;
  worker_->stop();
  kvpool_error error{};
  check(kvpool_consumer_close(consumer_, microseconds(timeout_s), &error), error);
  consumer_ = nullptr;
  worker_->fail_all("the adapter was closed");
}

void LMCacheAdapter::close_with_pool(double timeout_s) {
  if (pool_->is_inherited()) return;
  close(timeout_s);
  pool_->close(timeout_s);
}

namespace {

// What Python holds: the pool knows the adapter too, and may be closing it while Python lets go of it.
struct Handle {
  std::shared_ptr<LMCacheAdapter> adapter;
};

void use_huge_pages(const nb::list& buffers) {
  Kept kept;
  std::vector<std::span<std::byte>> memory;
  for (const nb::handle buffer : buffers) {
    const Memory its = memory_of(buffer, true, kept);
    memory.push_back({static_cast<std::byte*>(const_cast<void*>(its.data)), its.bytes});
  }
  const nb::gil_scoped_release released;
  lmcache::HugePages::prepare(memory);
}

}  // namespace

void bind_lmcache(nb::module_& module) {
  module.def("use_huge_pages", &use_huge_pages, "buffers"_a);
  nb::class_<Handle>(module, "LMCacheAdapter")
      .def(
          "__init__",
          [](Handle* handle, std::shared_ptr<Pool> pool, uint32_t lengths_max, bool huge_pages) {
            new (handle) Handle{LMCacheAdapter::open(std::move(pool),
                                                     {.lengths_max = lengths_max, .huge_pages = huge_pages})};
          },
          "pool"_a, "lengths_max"_a, "huge_pages"_a)
      .def("event_fd", [](const Handle& handle) { return handle.adapter->event_fd(); })
      .def(
          "submit_batch_set",
          [](const Handle& handle, nb::handle keys, nb::handle values) {
            return handle.adapter->submit(lmcache::BatchKind::set, keys, values);
          },
          "keys"_a, "values"_a)
      .def(
          "submit_batch_get",
          [](const Handle& handle, nb::handle keys, nb::handle values) {
            return handle.adapter->submit(lmcache::BatchKind::get, keys, values);
          },
          "keys"_a, "values"_a)
      .def(
          "submit_batch_exists",
          [](const Handle& handle, nb::handle keys) {
            return handle.adapter->submit(lmcache::BatchKind::exists, keys, nb::handle());
          },
          "keys"_a)
      .def(
          "submit_batch_delete",
          [](const Handle& handle, nb::handle keys) {
            return handle.adapter->submit(lmcache::BatchKind::remove, keys, nb::handle());
          },
          "keys"_a)
      .def("drain_completions", [](const Handle& handle) { return handle.adapter->drain_completions(); })
      .def(
          "close", [](const Handle& handle, double timeout_s) { handle.adapter->close_with_pool(timeout_s); },
          "timeout_s"_a = 60.0);
}

}  // namespace kvpool::python
