// SpdkDrive: one namespace of one controller, and the thread that looks after the controller: it attaches it,
// takes the namespace for the pool, keeps the connection alive, and when the controller has failed frees
// what hung on it and attaches it again until it is back.
//
// Between that thread and the engine's one thing goes to and fro, the queue pair. Its owner is
//   the drive's thread   while the drive is `away`: nothing is under way then
//   the engine's thread  while it is `up`: it submits and polls
//   the drive's thread   while it is `lost`: it fails the controller, frees the queue pair, which ends what
//   was
//                        under way (the callbacks run on this thread), and then the drive is `away`
// Only the owner changes the state, but for `away` to `up`, which gives the queue pair, and `up` to `lost`,
// which gives it back.
//
// Failure: attached() gives the first attempt's. Later ones are logged once.

#pragma once

#include <spdk/nvme.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/result.h"
#include "base/wakeup.h"
#include "io/block/whole_device.h"
#include "io/pool_header.h"
#include "io/spdk/spdk_plugin.h"

namespace kvpool {

inline constexpr uint32_t io_page_bytes = 4096;  // that commands and their memory are made of

// Tells a thread that sleeps on a descriptor that something it looks at has changed.
class News {
 public:
  News() : fd_(make_eventfd()) {}
  News(const News&) = delete;
  News& operator=(const News&) = delete;
  ~News() { close(fd_); }

  [[nodiscard]] int fd() const { return fd_; }
  // After the change.
  void tell() {
    const uint64_t one = 1;
    [[maybe_unused]] const auto n = write(fd_, &one, sizeof one);
    told_.store(true, std::memory_order_release);  // last: whoever sees it finds something to read
  }
  // Before a look at what may have changed; costs a load where there is nothing new.
  void hear() {
    if (!told_.load(std::memory_order_acquire)) return;
    told_.store(false, std::memory_order_relaxed);
    uint64_t ignored = 0;
    [[maybe_unused]] const auto n = read(fd_, &ignored, sizeof ignored);
  }

 private:
  std::atomic<bool> told_{false};
  int fd_;
};

class SpdkDrive {
 public:
  enum class State : uint8_t { away, up, lost };

  // `news` is told of every change of state. `all_ended` runs on the drive's thread once a lost queue pair is
  // freed: nothing that was under way on it will be heard of again.
  SpdkDrive(const SpdkDeviceOptions& options, News& news, std::function<void()> all_ended);
  ~SpdkDrive();
  SpdkDrive(const SpdkDrive&) = delete;
  SpdkDrive& operator=(const SpdkDrive&) = delete;

  // Gives the queue pair back, which ends what is under way, and detaches. REQUIRES: nobody but the caller
  // uses the drive any more.
  void close();

  // Waits for the end of the first attempt. Once.
  [[nodiscard]] Status attached();

  // ---- constant once attached() was good
  [[nodiscard]] const PoolHeader& header() const { return header_; }
  [[nodiscard]] uint32_t block_bytes() const { return block_bytes_; }
  [[nodiscard]] uint32_t transfer_bytes_max() const { return transfer_bytes_max_; }
  // As asked for, or what the controller's queues hold.
  [[nodiscard]] uint32_t queue_depth() const { return queue_depth_; }
  // Any memory will do: it is copied by the kernel on its way.
  // Whatever memory is registered, the drive can be given: an IOMMU maps it.
  [[nodiscard]] bool maps_all_memory() const {
    return id_.trtype == SPDK_NVME_TRANSPORT_PCIE && spdk_iommu_is_enabled();
  }
  [[nodiscard]] bool reaches_all_memory() const { return id_.trtype == SPDK_NVME_TRANSPORT_TCP; }

  // ---- the engine's thread
  [[nodiscard]] State state() const { return state_.load(std::memory_order_acquire); }
  // REQUIRES of both: up.
  [[nodiscard]] spdk_nvme_qpair* queue_pair() const { return queue_pair_; }
  [[nodiscard]] spdk_nvme_ns* ns() const { return namespace_; }
  // Null, or why the controller cannot be used any more.
  [[nodiscard]] const char* failure() const { return failure_.load(std::memory_order_relaxed); }
  // up to lost.
  void give_back(std::string_view why);

 private:
  void run();
  [[nodiscard]] Status attach();
  [[nodiscard]] Status connect();
  [[nodiscard]] Status look_at_namespace();
  [[nodiscard]] Status connect_queue_pair();
  [[nodiscard]] Status take_namespace();
  [[nodiscard]] Status come_back();
  [[nodiscard]] Status write_header();
  [[nodiscard]] Status lock();
  void lend();
  void serve();
  [[nodiscard]] bool is_over(spdk_nvme_probe_ctx* probe) const;
  void free_queue_pair(bool controller_failed);
  void detach();
  void let_go(bool controller_failed);
  [[nodiscard]] Status claim();
  [[nodiscard]] std::string controller_key() const;
  [[nodiscard]] std::unique_lock<std::mutex> alone() const;
  // It reads and writes our memory by itself, queues included.
  [[nodiscard]] bool has_dma() const {
    return id_.trtype != SPDK_NVME_TRANSPORT_TCP && id_.trtype != SPDK_NVME_TRANSPORT_RDMA;
  }
  void rest(Nanos most);

  // Blocking I/O of the drive's thread, while it owns the queue pair.
  enum class Command : uint8_t { read, write, flush };
  [[nodiscard]] int send(Command command, uint64_t offset, std::span<std::byte> bytes, void* context,
                         spdk_nvme_cmd_cb done);
  [[nodiscard]] Status carry_out(Command command, uint64_t offset, std::span<std::byte> bytes);
  [[nodiscard]] WholeDevice whole();

  static void on_attach(void* context, const spdk_nvme_transport_id* id, spdk_nvme_ctrlr* controller,
                        const spdk_nvme_ctrlr_opts* options);
  static void on_event(void* context, const spdk_nvme_cpl* completion);
  static void on_timeout(void* context, spdk_nvme_ctrlr* controller, spdk_nvme_qpair* queue_pair,
                         uint16_t command);

  SpdkDeviceOptions options_;
  News& news_;
  std::function<void()> all_ended_;
  std::promise<Status> first_;
  std::atomic<State> state_{State::away};
  std::atomic<const char*> failure_{nullptr};
  std::atomic<bool> stopping_{false};
  std::string lost_because_;  // of the engine's, written before `lost`

  spdk_nvme_transport_id id_{};
  bool id_is_good_ = false;
  bool claimed_ = false;
  spdk_nvme_ctrlr* controller_ = nullptr;
  spdk_nvme_ns* namespace_ = nullptr;
  spdk_nvme_qpair* queue_pair_ = nullptr;
  bool taken_ = false;  // header_ and what follows are known
  PoolHeader header_;
  uint64_t size_bytes_ = 0;
  uint32_t block_bytes_ = 0;
  uint32_t transfer_bytes_max_ = 0;
  uint32_t queue_depth_ = 0;
  uint32_t queue_entries_max_ = 2;
  int lock_fd_ = -1;
  std::string last_refusal_;  // said once

  Wakeup wake_;
  std::thread thread_;
};

}  // namespace kvpool
