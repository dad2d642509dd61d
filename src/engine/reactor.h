// Reactor: the thread that an engine runs on. It spins while there is work, and for `spin` after that; then
// it sleeps until a consumer, a device, a transfer or a time wakes it.
//
// Threads: run() may be called from any thread but the reactor's own; calls are administration (they lock and
// allocate) and are executed one after the other between two steps of the engine.

#pragma once

#include <poll.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/sleeper.h"
#include "base/wakeup.h"
#include "engine/engine.h"

namespace kvpool {

class Reactor {
 public:
  struct Options {
    Nanos spin{std::chrono::microseconds(20)};
    std::vector<std::span<std::byte>> regions;  // handed to each Device::start()
  };

  // REQUIRES: the engine and everything it is wired to outlive the reactor.
  Reactor(Engine& engine, const Engine::Wiring& wiring, Options options);
  // Stops the thread; REQUIRES: the engine is idle, or the process is about to end.
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  // Starts the devices on the thread that will own them, then the loop. The first device that fails ends it.
  [[nodiscard]] Status start();

  // Runs `call` on the engine's thread and waits for it.
  void run(const std::function<void(Engine&)>& call);

  // What consumers notify after they have pushed a message.
  [[nodiscard]] Wakeup& to_engine() { return to_engine_; }

 private:
  void loop();
  void sleep();
  bool run_calls();

  struct Call {
    const std::function<void(Engine&)>* function = nullptr;
    std::atomic<bool> done{false};
  };

  Engine& engine_;
  const Clock& clock_;
  Transfer& transfer_;
  std::vector<Device*> devices_;
  Options options_;
  Sleeper sleeper_;
  Wakeup to_engine_;
  std::vector<pollfd> descriptors_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> has_calls_{false};
  std::mutex calls_mutex_;
  std::vector<Call*> calls_;
  std::thread thread_;
};

}  // namespace kvpool
