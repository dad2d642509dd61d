// Pool: a pool of the C API as a Python object, and what is asked of it as a whole.
//
// Thread: any that holds the GIL; open() and close() let go of it while they wait. Consumers hold the pool's
// object, so that it goes after them.
// Failure: PoolError, with the words that the command line would print.

#pragma once

#include <nanobind/nanobind.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "buffer.h"
#include "kvpool/kvpool.h"

namespace kvpool::python {

// What must be closed before its pool is.
class Closable {
 public:
  virtual ~Closable() = default;
  // Raises TimedOut where a device still holds buffers; it may be called again.
  virtual void close(double timeout_s) = 0;
};

// A namespace of a pool, and the shape of its blocks.
struct Namespace {
  uint64_t pool = 0;  // Pool::id()
  uint32_t number = 0;
  std::string name;
  uint32_t block_tokens = 0;
  std::vector<uint32_t> segment_bytes;
  std::vector<bool> window;
  bool flat = false;

  [[nodiscard]] uint32_t segments() const { return static_cast<uint32_t>(segment_bytes.size()); }
  [[nodiscard]] uint64_t block_bytes() const;
};

class Pool {
 public:
  // Exactly one of the first two: a configuration's path, or its text. memory: a list of buffers that are the
  // caller's own, of which devices are told (kvpool_options); they are held until the pool is closed.
  Pool(const std::optional<std::string>& path, const std::optional<std::string>& toml,
       const nanobind::list& memory);
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool();

  // Closes what uses it first. TIMED_OUT: a device still holds buffers; it may be called again. While memory
  // of its own is lent nobody can use it any more, but devices and memory are kept until the last comes back.
  void close(double timeout_s);
  [[nodiscard]] bool closed() const { return gone() || closed_; }
  // Devices and memory are given back, or are not this process's to give.
  [[nodiscard]] bool gone() const { return pool_ == nullptr || is_inherited(); }
  // By a fork: the threads that serve it are in the other process.
  [[nodiscard]] bool is_inherited() const { return getpid() != process_; }
  void lend() { ++lent_; }
  void take_back();
  // Of no other pool of the process, ever.
  [[nodiscard]] uint64_t id() const { return id_; }
  // Throws when it is closed.
  [[nodiscard]] kvpool_pool* get() const;

  // Finds the namespace, or makes it.
  [[nodiscard]] Namespace open_namespace(Namespace wanted);
  // Of the same name as the dictionaries' keys: the fields of kvpool_stats and kvpool_device_stats.
  [[nodiscard]] nanobind::dict stats() const;
  [[nodiscard]] nanobind::list device_stats() const;

  void add(const std::shared_ptr<Closable>& user);
  // Around what a user does with the pool without the GIL as it opens or goes: the pool is closed after it.
  void delay_close() { ++delays_; }
  void allow_close() { --delays_; }

 private:
  void close_users(double timeout_s);
  void give_back(double timeout_s);
  static inline uint64_t last_id = 0;

  uint64_t id_ = ++last_id;
  pid_t process_ = getpid();
  kvpool_pool* pool_ = nullptr;
  bool closing_ = false;  // one thread is, without the GIL
  bool closed_ = false;
  uint32_t delays_ = 0;
  uint32_t lent_ = 0;
  std::vector<std::weak_ptr<Closable>> users_;
  Kept memory_;
};

void bind_pool(nanobind::module_& module);

}  // namespace kvpool::python
