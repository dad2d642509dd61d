#include "consumer.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "error.h"

namespace nb = nanobind;

namespace kvpool::python {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t requests_max = 256;  // a consumer's slots
// Signals are looked for so often, and what another thread has taken in the meantime.
constexpr int slice_ms = 50;
constexpr int shared_slice_ms = 1;

// All memory of the process, as a region.
void* const first_address = reinterpret_cast<void*>(4096);
constexpr uint64_t all_bytes = (uint64_t{1} << 47) - 8192;

kvpool_status submit(Op op, kvpool_consumer* consumer, const kvpool_request& request, kvpool_ticket* ticket) {
  switch (op) {
    case Op::match:
      return kvpool_match(consumer, &request, ticket);
    case Op::retrieve:
      return kvpool_retrieve(consumer, &request, ticket);
    case Op::store:
      return kvpool_store(consumer, &request, ticket);
    case Op::stage:
      return kvpool_stage(consumer, &request, ticket);
    case Op::estimate:
      return kvpool_estimate(consumer, &request, ticket);
    case Op::remove:
      return kvpool_delete(consumer, &request, ticket);
  }
  return KVPOOL_INVALID_ARGUMENT;
}

}  // namespace

uint64_t microseconds(double seconds) {
  constexpr double most = 1e15;  // thirty years
  if (std::isnan(seconds)) throw PoolError(KVPOOL_INVALID_ARGUMENT, "a time is not a number");
  return static_cast<uint64_t>(seconds < 0 ? most : std::min(most, std::ceil(seconds * 1e6)));
}

kvpool_consumer* open_consumer(const Pool& pool, const std::string& name, uint64_t region_bytes) {
  kvpool_consumer_options options{};
  options.struct_size = sizeof options;
  options.name = name.c_str();
  options.region_bytes = region_bytes;
  kvpool_consumer* consumer = nullptr;
  kvpool_error error{};
  check(kvpool_consumer_open(pool.get(), &options, &consumer, &error), error);
  const kvpool_status added = kvpool_region_add(consumer, first_address, all_bytes);
  if (added == KVPOOL_OK) return consumer;
  (void)kvpool_consumer_close(consumer, 0, &error);
  throw PoolError(added, "the process's memory cannot be a region");
}

std::shared_ptr<Consumer> Consumer::open(std::shared_ptr<Pool> pool, const std::string& name,
                                         uint64_t region_bytes) {
  std::shared_ptr<Consumer> made(new Consumer);
  made->consumer_ = open_consumer(*pool, name, region_bytes);
  made->pool_ = std::move(pool);
  made->under_way_.resize(requests_max);
  for (uint32_t i = requests_max; i > 0; --i) made->free_.push_back(i - 1);
  made->pool_->add(made);
  return made;
}

Consumer::~Consumer() {
  if (consumer_ == nullptr || pool_->gone()) return;
  kvpool_error ignored{};
  constexpr uint64_t most_us = 10'000'000;
  kvpool_status status = KVPOOL_OK;
  pool_->delay_close();
  {
    const nb::gil_scoped_release released;
    status = kvpool_consumer_close(consumer_, most_us, &ignored);
  }
  pool_->allow_close();
  // A device that does not let go may still write to what the requests name.
  if (status != KVPOOL_OK) (void)new std::vector<Slot>(std::move(under_way_));
}

void Consumer::end_requests(double timeout_s) {
  const auto until = Clock::now() + std::chrono::microseconds(microseconds(timeout_s));
  for (const Slot& slot : under_way_) {
    if (const auto request = slot.request.lock()) request->cancel();
  }
  while (consumer_ != nullptr) {
    poll();
    if (free_.size() == requests_max) return;
    if (Clock::now() >= until) throw PoolError(KVPOOL_TIMED_OUT, "a device still holds buffers; close again");
    const nb::gil_scoped_release released;
    ::poll(nullptr, 0, shared_slice_ms);
  }
}

void Consumer::close(double timeout_s) {
  while (closing_) {  // another thread is
    const nb::gil_scoped_release released;
    ::poll(nullptr, 0, shared_slice_ms);
  }
  if (closed()) return;
  if (lent_ > 0) {
    end_requests(timeout_s);
    closed_ = true;  // the rest goes with the last who could use the region
    return;
  }
  kvpool_consumer* const closing = std::exchange(consumer_, nullptr);  // nobody else uses it from here on
  closing_ = true;
  kvpool_error error{};
  kvpool_status status = KVPOOL_OK;
  {
    const nb::gil_scoped_release released;
    status = kvpool_consumer_close(closing, microseconds(timeout_s), &error);
  }
  closing_ = false;
  if (status != KVPOOL_OK) consumer_ = closing;
  check(status, error);
  // Their buffers are free, and nobody will say more of them.
  for (Slot& slot : under_way_) {
    const Slot ended = std::exchange(slot, {});
    const std::shared_ptr<Request> request = ended.request.lock();
    if (request == nullptr) continue;
    if (!request->result_) request->result_ = Result{.status = KVPOOL_CLOSED};
    request->released_ = true;
  }
}

Consumer::Lent::Lent(std::shared_ptr<Consumer> consumer) : consumer_(std::move(consumer)) {
  ++consumer_->lent_;
  consumer_->pool_->lend();
}

Consumer::Lent::~Lent() {
  --consumer_->lent_;
  consumer_->pool_->take_back();
}

kvpool_consumer* Consumer::get() const {
  if (closed()) throw PoolError(KVPOOL_CLOSED, "the consumer is closed");
  return consumer_;
}

std::span<std::byte> Consumer::region() const {
  uint64_t bytes = 0;
  void* const base = kvpool_region(get(), &bytes);
  return {static_cast<std::byte*>(base), bytes};
}

std::shared_ptr<Request> Consumer::send(Order order) {
  kvpool_consumer* const consumer = get();
  if (free_.empty()) poll();
  if (free_.empty())
    throw PoolError(KVPOOL_BUSY, "256 requests of this consumer are under way; wait for some");
  auto request = std::make_shared<Request>(shared_from_this());
  auto kept = std::make_unique<Order>(std::move(order));
  kvpool_request& sent = kept->request;
  sent.struct_size = sizeof sent;
  sent.keys = kept->keys.data();
  sent.buffers = kept->addresses.data();
  const auto try_to_send = [&] {
    sent.user_data = free_.back();
    return submit(kept->op, consumer, sent, &request->ticket_);
  };
  kvpool_status status = try_to_send();
  if (status == KVPOOL_BUSY) {  // perhaps with results that nobody has looked for
    poll();
    status = try_to_send();
  }
  if (status != KVPOOL_OK) {
    throw PoolError(status, status == KVPOOL_BUSY ? "the pool's queue is full; wait for some requests"
                                                  : "the pool refused the request");
  }
  under_way_[free_.back()] = {std::move(kept), request};
  free_.pop_back();
  return request;
}

void Consumer::poll() {
  std::array<kvpool_completion, 64> taken;
  for (uint32_t count = taken.size(); count == taken.size();) {
    count = kvpool_poll(get(), taken.data(), taken.size());
    for (uint32_t i = 0; i < count; ++i) take(taken[i]);
  }
  if (!unpins_.empty()) send_unpins();
}

void Consumer::take(const kvpool_completion& completion) {
  if (completion.user_data >= requests_max) return;  // an unpin's
  Slot& slot = under_way_[completion.user_data];
  const std::shared_ptr<Request> request = slot.request.lock();
  if (completion.kind == KVPOOL_RESULT) {
    const bool pinned =
        slot.order->op == Op::match && completion.pin != 0;  // others name what they were given
    if (request == nullptr) {
      if (pinned) unpins_.push_back(completion.pin);
      return;
    }
    request->result_ = Result{.status = static_cast<kvpool_status>(completion.status),
                              .blocks = completion.blocks,
                              .segments = completion.segments,
                              .bytes = completion.bytes,
                              .estimate_s = static_cast<double>(completion.estimate_us) / 1e6,
                              .pin = nullptr};
    if (pinned) {
      request->result_->pin = std::make_shared<Pin>(shared_from_this(), completion.pin,
                                                    slot.order->request.ns, completion.blocks);
    }
    return;
  }
  if (request != nullptr) request->released_ = true;
  const std::unique_ptr<Order> ended =
      std::move(slot.order);  // its buffers' owners may run code of their own
  slot = {};
  free_.push_back(static_cast<uint32_t>(completion.user_data));
}

bool Consumer::wait(const Request& request, bool released, double timeout_s) {
  const auto until = Clock::now() + std::chrono::microseconds(microseconds(timeout_s));
  for (;;) {
    if (!closed()) poll();
    if (released ? request.released() : request.done()) return true;
    if (closed()) {  // another thread is closing it, or it never ends in this process
      if (pool_->is_inherited())
        throw PoolError(KVPOOL_CLOSED, "the request is of the process that forked this one");
      const nb::gil_scoped_release let;
      ::poll(nullptr, 0, shared_slice_ms);
      continue;
    }
    if (timeout_s >= 0 && Clock::now() >= until) return false;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (!arm()) continue;
    pollfd readable{.fd = event_fd(), .events = POLLIN, .revents = 0};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count() + 1;
    ++waiting_;
    const int slice = waiting_ > 1 ? shared_slice_ms : slice_ms;
    {
      const nb::gil_scoped_release let;
      ::poll(&readable, 1, static_cast<int>(std::clamp<int64_t>(left, 0, slice)));
    }
    --waiting_;
  }
}

void Consumer::unpin(kvpool_pin pin) {
  if (closed() || pool_->closed()) return;
  unpins_.push_back(pin);
  send_unpins();
}

void Consumer::send_unpins() {
  while (!unpins_.empty()) {
    kvpool_request request{};
    request.struct_size = sizeof request;
    request.user_data = requests_max;
    request.pin = unpins_.back();
    kvpool_ticket ticket = 0;
    if (kvpool_unpin(consumer_, &request, &ticket) != KVPOOL_OK) return;  // the next poll() tries again
    unpins_.pop_back();
  }
}

void Pin::release() {
  if (pin_ != 0) consumer_->unpin(take());
}

Result Request::result(double timeout_s) {
  if (!result_ && !consumer_->wait(*this, false, timeout_s)) {
    throw PoolError(KVPOOL_TIMED_OUT, "the request is still under way");
  }
  if (result_->status == KVPOOL_CLOSED) {
    throw PoolError(KVPOOL_CLOSED, "the pool or its consumer was closed before the request ended");
  }
  if (result_->status == KVPOOL_INVALID_ARGUMENT || result_->status == KVPOOL_TOO_LARGE) {
    throw PoolError(result_->status,
                    std::string("the pool refused the request: ") + kvpool_status_string(result_->status));
  }
  return *result_;
}

void Request::wait_released(double timeout_s) {
  if (!released_ && !consumer_->wait(*this, true, timeout_s)) {
    throw PoolError(KVPOOL_TIMED_OUT, "a device still holds the request's buffers");
  }
}

// The message is small: when there is no room for it, there is after a look.
void Request::cancel() {
  if (done() || consumer_->closed()) return;
  if (kvpool_cancel(consumer_->get(), ticket_) != KVPOOL_BUSY) return;
  consumer_->poll();
  const kvpool_status again = kvpool_cancel(consumer_->get(), ticket_);
  if (again != KVPOOL_OK) throw PoolError(again, "the pool's queue is full; cancel again");
}

uint32_t Request::progress() const {
  if (result_) return result_->segments;
  return kvpool_progress(consumer_->get(), ticket_);
}

}  // namespace kvpool::python
