// PageMover for Python: an engine's pages and a pool's blocks, with nothing done for each page in Python.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <tuple>
#include <utility>

#include "connectors/pages/gpu/gpu_copier.h"
#include "connectors/pages/page_mover.h"
#include "consumer.h"
#include "error.h"
#include "page_numbers.h"
#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvpool::python {
namespace {

// base, page_stride_bytes, pages, shape of a page, its strides in bytes, bytes of an element, group
using LayerTuple = std::tuple<uint64_t, uint64_t, uint32_t, std::vector<uint64_t>, std::vector<uint64_t>,
                              uint64_t, uint32_t>;

[[noreturn]] void refuse(kvpool_status status, const std::string& why) { throw PoolError(status, why); }

// Thread: any that holds the GIL; waits let go of it.
class Mover final : public Closable {
 public:
  static std::shared_ptr<Mover> open(const std::shared_ptr<Pool>& pool, const Namespace& ns,
                                     const std::vector<LayerTuple>& layers,
                                     const std::vector<uint32_t>& pages_of_group, uint64_t staging_bytes,
                                     const std::optional<int>& gpu) {
    pages::MoverOptions options{.pool = pool->get(), .ns = ns.number, .staging_bytes = staging_bytes};
    if (gpu) options.copier = pages::gpu_copier(*gpu);
    options.pages.of_group = pages_of_group;
    for (const bool window : ns.window) options.windows = options.windows || window;
    for (const auto& [base, stride, count, shape, strides, element, group] : layers) {
      auto pieces = pages::page_pieces(shape, strides, element);
      if (!pieces) refuse(KVPOOL_UNSUPPORTED, "a layer's pages have strides that overlap");
      options.layers.push_back({.base = reinterpret_cast<std::byte*>(base),
                                .page_stride_bytes = stride,
                                .pages = count,
                                .pieces = std::move(*pieces),
                                .group = group});
    }
    if (ns.pool != pool->id()) refuse(KVPOOL_INVALID_ARGUMENT, "the namespace is of another pool");
    check_segments(options, ns);
    auto made = std::make_shared<Mover>();
    kvpool_status status = KVPOOL_OK;
    kvpool_error error{};
    made->pool_ = pool;
    made->ns_ = ns;
    pool->delay_close();
    try {
      const nb::gil_scoped_release let;  // a GPU takes its time to register a large pool
      made->mover_ = pages::PageMover::open(std::move(options), &status, &error);
    } catch (...) {
      pool->allow_close();
      throw;
    }
    pool->allow_close();
    check(status, error);
    (void)pool->get();  // throws where another thread is closing it meanwhile
    pool->add(made);
    return made;
  }
  ~Mover() override {
    if (mover_ == nullptr) return;
    if (pool_->is_inherited()) {
      (void)new std::shared_ptr<pages::PageMover>(std::move(mover_));
      return;
    }
    constexpr uint64_t most_us = 10'000'000;
    kvpool_error ignored{};
    kvpool_status status = KVPOOL_OK;
    pool_->delay_close();
    {
      const nb::gil_scoped_release let;
      status = mover_->close(most_us, &ignored);
      mover_.reset();
    }
    pool_->allow_close();
    // Its thread is left behind with work that does not end: then the pool is, too.
    if (status != KVPOOL_OK) (void)new std::shared_ptr<Pool>(pool_);
  }

  void store(uint64_t id, uint64_t chain, nb::handle keys, const std::optional<nb::bytes>& parent,
             const PageNumbers& pages, uint64_t after) {
    pages::StoreJob job{.id = id, .chain = chain, .keys = keys_from(keys), .has_parent = parent.has_value()};
    if (parent) job.parent = key_from(*parent);
    job.pages = pages.of;
    job.after = after;
    check_sent(get()->store(std::move(job)));
  }
  void load(uint64_t id, const std::shared_ptr<Pin>& pin, uint32_t block_first, uint32_t blocks,
            const PageNumbers& pages, double timeout_s, uint64_t after,
            const std::vector<std::tuple<uint32_t, uint64_t>>& parts) {
    if (!pin->is_of(ns_)) refuse(KVPOOL_INVALID_ARGUMENT, "the pin is of another namespace or pool");
    pages::LoadJob job{.id = id, .pin = pin->number(), .block_first = block_first, .blocks = blocks};
    job.pages = pages.of;
    job.timeout_us = timeout_s < 0 ? 0 : std::max<uint64_t>(1, microseconds(timeout_s));
    job.after = after;
    for (const auto& [layers_end, event] : parts) job.parts.push_back({layers_end, event});
    check_sent(get()->load(std::move(job)));
    pins_[id] = pin;
  }
  void cancel(uint64_t id) { get()->cancel(id); }
  std::vector<std::tuple<uint64_t, int, uint32_t>> events() {
    std::vector<std::tuple<uint64_t, int, uint32_t>> out;
    for (const pages::Event& event : get()->take_events()) {
      if (event.kind == pages::EventKind::loaded) pins_.erase(event.id);
      out.emplace_back(event.id, static_cast<int>(event.kind), event.blocks);
    }
    return out;
  }
  bool wait_gathered(uint64_t id, double timeout_s) {
    const std::shared_ptr<pages::PageMover> mover = get();
    const nb::gil_scoped_release let;
    return mover->wait_gathered(id, microseconds(timeout_s));
  }
  bool wait_unread(const PageNumbers& pages, double timeout_s) {
    const std::shared_ptr<pages::PageMover> mover = get();
    const std::vector<int32_t> kept = pages.of;  // which another thread may change meanwhile
    const nb::gil_scoped_release let;
    return mover->wait_unread(kept, microseconds(timeout_s));
  }
  bool cancel_stores(double timeout_s) {
    const std::shared_ptr<pages::PageMover> mover = get();
    const nb::gil_scoped_release let;
    return mover->cancel_stores(microseconds(timeout_s));
  }
  bool wait_ended(uint64_t id, double timeout_s) {
    const std::shared_ptr<pages::PageMover> mover = get();
    const nb::gil_scoped_release let;
    return mover->wait_ended(id, microseconds(timeout_s));
  }
  bool busy() { return get()->jobs_under_way() > 0; }
  nb::dict stats() {
    const pages::MoverStats stats = get()->stats();
    nb::dict out;
    out["loaded_blocks"] = stats.loaded_blocks;
    out["loaded_bytes"] = stats.loaded_bytes;
    out["failed_loads"] = stats.failed_loads;
    out["stored_blocks"] = stats.stored_blocks;
    out["stored_bytes"] = stats.stored_bytes;
    out["failed_stores"] = stats.failed_stores;
    out["wrong_copies"] = stats.wrong_copies;
    out["jobs_under_way"] = get()->jobs_under_way();
    return out;
  }
  void close(double timeout_s) override {
    if (mover_ == nullptr || pool_->is_inherited()) return;
    const std::shared_ptr<pages::PageMover> mover = mover_;
    kvpool_error error{};
    kvpool_status status = KVPOOL_OK;
    {
      const nb::gil_scoped_release let;
      status = mover->close(microseconds(timeout_s), &error);
    }
    check(status, error);
    pins_.clear();
    mover_.reset();
  }

 private:
  static void check_segments(const pages::MoverOptions& options, const Namespace& ns) {
    bool right = options.layers.size() == ns.segment_bytes.size();
    for (size_t i = 0; right && i < options.layers.size(); ++i) {
      const pages::Layer& layer = options.layers[i];
      right = layer.group < options.pages.of_group.size() &&
              options.pages.of_group[layer.group] * layer.page_bytes() == ns.segment_bytes[i];
    }
    if (!right) refuse(KVPOOL_INVALID_ARGUMENT, "the layers' pages are not the namespace's segments");
  }
  static void check_sent(kvpool_status status) {
    if (status == KVPOOL_BUSY) refuse(status, "too many jobs of the page mover are under way");
    if (status != KVPOOL_OK) {
      refuse(status,
             "a job names pages that are not there, another number of them than its blocks have, the id of "
             "one that is under way, an event though its pages are not on a GPU, or parts that are not all "
             "layers");
    }
  }
  std::shared_ptr<pages::PageMover> get() {
    if (mover_ == nullptr || pool_->is_inherited()) refuse(KVPOOL_CLOSED, "the page mover is closed");
    return mover_;
  }

  std::shared_ptr<Pool> pool_;
  Namespace ns_;
  std::shared_ptr<pages::PageMover> mover_;
  std::map<uint64_t, std::shared_ptr<Pin>> pins_;  // of loads under way
};

}  // namespace

void bind_mover(nb::module_& module) {
  nb::class_<Mover> mover(module, "PageMover",
                          "Carries blocks between an engine's pages and a pool, in a thread of its own.");
  mover.attr("GATHERED") = static_cast<int>(pages::EventKind::gathered);
  mover.attr("STORED") = static_cast<int>(pages::EventKind::stored);
  mover.attr("ORDERED") = static_cast<int>(pages::EventKind::ordered);
  mover.attr("LOADED") = static_cast<int>(pages::EventKind::loaded);
  mover
      .def_static("open", &Mover::open, "pool"_a, "ns"_a, "layers"_a, "pages_of_group"_a, "staging_bytes"_a,
                  "gpu"_a.none() = nb::none(),
                  "gpu: CUDA's number of the device whose memory the layers are in. None: the CPU's memory.")
      .def("store", &Mover::store, "id"_a, "chain"_a, "keys"_a, "parent"_a.none(), "pages"_a, "after"_a = 0,
           "after: a cudaEvent_t (torch.cuda.Event.cuda_event) recorded before this call and kept until the "
           "job has ended; pages are read behind it. 0: none.")
      .def("load", &Mover::load, "id"_a, "pin"_a, "block_first"_a, "blocks"_a, "pages"_a,
           "timeout_s"_a = -1.0, "after"_a = 0, "parts"_a = std::vector<std::tuple<uint32_t, uint64_t>>{},
           "after: as of store(); pages are written behind it. parts: (layers_end, event) of those layers "
           "that come first, then of the next, up to the last. When ORDERED is told, each event has been "
           "recorded anew: what waits for it finds that part of the load in its pages. LOADED comes later.")
      .def("cancel", &Mover::cancel, "id"_a)
      .def("events", &Mover::events, "(id, kind, blocks) of what has happened since the last call.")
      .def("wait_gathered", &Mover::wait_gathered, "id"_a, "timeout_s"_a = -1.0)
      .def("wait_unread", &Mover::wait_unread, "pages"_a, "timeout_s"_a = -1.0)
      .def("cancel_stores", &Mover::cancel_stores, "timeout_s"_a = -1.0)
      .def("busy", &Mover::busy)
      .def("wait_ended", &Mover::wait_ended, "id"_a, "timeout_s"_a = -1.0)
      .def("stats", &Mover::stats)
      .def("close", &Mover::close, "timeout_s"_a = -1.0);
}

}  // namespace kvpool::python
