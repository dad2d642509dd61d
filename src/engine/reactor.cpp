#include "engine/reactor.h"

#include <pthread.h>
#include <sys/prctl.h>

#include <future>

namespace kvpool {
namespace {

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Reactor::Reactor(Engine& engine, const Engine::Wiring& wiring, Options options)
    : engine_(engine),
      clock_(*wiring.clock),
      transfer_(*wiring.transfer),
      devices_(wiring.devices),
      options_(std::move(options)),
      sleeper_(clock_) {}

Reactor::~Reactor() {
  stop_.store(true, std::memory_order_release);
  to_engine_.notify();
  if (thread_.joinable()) thread_.join();
}

Status Reactor::start() {
  std::promise<Status> started;
  thread_ = std::thread([this, &started] {
    pthread_setname_np(pthread_self(), "kvpool-engine");
    prctl(PR_SET_TIMERSLACK, 1000UL);  // caps are timed; the default rounds sleeps up by 50 us
    for (Device* device : devices_) {
      if (Status status = device->start(options_.regions); !status)
        return started.set_value(std::move(status));
    }
    descriptors_.push_back({.fd = to_engine_.fd(), .events = POLLIN, .revents = 0});
    if (transfer_.wait_fd() >= 0)
      descriptors_.push_back({.fd = transfer_.wait_fd(), .events = POLLIN, .revents = 0});
    for (const Device* device : devices_) {
      if (device->wait_fd() >= 0)
        descriptors_.push_back({.fd = device->wait_fd(), .events = POLLIN, .revents = 0});
    }
    started.set_value({});
    loop();
  });
  Status status = started.get_future().get();
  if (!status) thread_.join();
  return status;
}

void Reactor::run(const std::function<void(Engine&)>& call) {
  Call pending{.function = &call};
  {
    const std::lock_guard lock(calls_mutex_);
    calls_.push_back(&pending);
    has_calls_.store(true, std::memory_order_release);
  }
  to_engine_.notify();
  pending.done.wait(false, std::memory_order_acquire);
  // The engine's thread may still be inside notify_one(); the lock says that it has left.
  const std::lock_guard lock(calls_mutex_);
}

bool Reactor::run_calls() {
  if (!has_calls_.load(std::memory_order_acquire)) return false;
  const std::lock_guard lock(calls_mutex_);
  has_calls_.store(false, std::memory_order_relaxed);
  for (Call* call : calls_) {
    (*call->function)(engine_);
    call->done.store(true, std::memory_order_release);
    call->done.notify_one();
  }
  calls_.clear();
  return true;
}

void Reactor::loop() {
  Nanos worked_at = clock_.now();
  while (!stop_.load(std::memory_order_relaxed)) {
    const bool called = run_calls();
    if (engine_.step() || called) {
      worked_at = clock_.now();
      continue;
    }
    if (clock_.now() - worked_at < options_.spin) {
      pause_briefly();
      continue;
    }
    sleep();
  }
}

void Reactor::sleep() {
  if (sleeper_.is_near(engine_.next_event_time())) return pause_briefly();
  to_engine_.prepare();
  transfer_.prepare_wait();
  // What came in before this moment announced itself to nobody: look once more.
  const bool awake = has_calls_.load(std::memory_order_acquire) || stop_.load(std::memory_order_acquire) ||
                     engine_.step() || engine_.has_input();
  if (!awake) sleeper_.sleep(descriptors_, engine_.next_event_time());
  transfer_.done_wait();
  to_engine_.done();
}

}  // namespace kvpool
