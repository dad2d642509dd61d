// SpdkDevice: an NVMe namespace as a Device, through SPDK's driver in user space: a local drive on PCIe, or a
// target over TCP, RDMA or vfio-user. Its queue pair is polled by the owner thread; no system call is made
// for a local drive, and data goes by DMA straight into the buffers.
//
// Threads: the constructor, attached() and the destructor on any thread; start() and all else on the owner
// thread. Failure: attached() says what is wrong with the address, the drive or what lies on it. Afterwards
// every request completes exactly once. A command that takes longer than `io_timeout`, or a connection that
// breaks, ends all that is under way with an error once the hardware cannot touch its buffers any more; from
// then on requests fail at once, until the drive is back. Nothing allocates after start().

#pragma once

#include <string>
#include <vector>

#include "io/bounded_queue.h"
#include "io/device.h"
#include "io/poll_pace.h"
#include "io/spdk/plugin/spdk_drive.h"

namespace kvpool {

class SpdkDevice final : public Device {
 public:
  // Begins to attach; attached() waits for it and must be called, once, before anything else.
  explicit SpdkDevice(const SpdkDeviceOptions& options);
  ~SpdkDevice() override;
  [[nodiscard]] Status attached();

  [[nodiscard]] const std::string& name() const override { return options_.name; }
  [[nodiscard]] DeviceLimits limits() const override { return limits_; }
  void offer(std::span<std::byte> memory) override;
  Status start(std::span<const std::span<std::byte>> regions) override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] bool online() const override { return drive_.state() == SpdkDrive::State::up; }
  [[nodiscard]] bool reaches(const std::byte* buffer, uint32_t length_bytes) const override;
  [[nodiscard]] int wait_fd() const override { return news_.fd(); }
  [[nodiscard]] Nanos next_event_time() const override;

 private:
  struct Slot {
    SpdkDevice* device = nullptr;
    uint64_t tag = 0;
    uint32_t length_bytes = 0;
    Nanos submitted_at{0};
    Errc code = Errc::ok;
    bool under_way = false;
  };

  void add_offered();
  [[nodiscard]] Status try_memory(std::span<std::byte> region);
  [[nodiscard]] int send(const IoRequest& request, Slot& slot);
  void look_after(int32_t polled);
  void end(Slot& slot, Errc code);
  void log_failure(std::string_view what);
  static void on_done(void* context, const spdk_nvme_cpl* completion);

  SpdkDeviceOptions options_;
  DeviceLimits limits_;
  SteadyClock clock_;
  PollPace pace_;
  std::vector<std::span<std::byte>> offered_;     // whole pages of 2 MiB
  std::vector<std::span<std::byte>> registered_;  // by address
  std::vector<Slot> slots_;
  BoundedQueue<uint32_t> free_slots_;
  // Slots that ended. While the drive is lost its thread writes here, and nobody else; refused_ is the
  // owner's always.
  BoundedQueue<uint32_t> done_;
  BoundedQueue<uint32_t> refused_;
  bool failure_logged_ = false;
  News news_;
  SpdkDrive drive_;  // last: its thread ends before what its callbacks write to
};

}  // namespace kvpool
