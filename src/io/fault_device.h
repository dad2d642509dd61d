// FaultDevice: another device that fails on purpose, for tests and the simulator. Each request draws its
// fault from a seeded generator, or follows a script; the same seed and requests give the same faults.
//
//   fail      carried out by the lower device, reported as Errc::io_error
//   short_io  carried out, reported as half the bytes and Errc::short_io
//   corrupt   a bit of what a read returns is flipped and Errc::ok reported; the stored bytes stay right (in
//             place the completion carries the address of a copy), unless corrupt_media is set and the
//             device works in place: then the stored bytes themselves are hurt
//   late      given to the lower device only late_by after submission
//   stuck     given to the lower device only after release_stuck()
// As with real hardware, a late or stuck read writes its buffer when it is finally carried out.
//
// Thread: the owner thread. Unlike product devices it allocates: one copy for each corrupted read in place,
// kept until the device ends.

#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/prng.h"
#include "io/bounded_queue.h"
#include "io/device.h"

namespace kvpool {

enum class Fault : uint8_t { none, fail, short_io, corrupt, late, stuck };
inline constexpr size_t faults = 6;

struct FaultOptions {
  uint64_t seed = 0;
  // Of each request, 0 to 1; together at most 1.
  double fail = 0;
  double short_io = 0;
  double corrupt = 0;  // of reads; a write that draws it has no fault
  double late = 0;
  double stuck = 0;
  Nanos late_by{std::chrono::milliseconds(100)};
  bool corrupt_media = false;
  uint32_t corrupt_bytes = 64;  // the flipped bit is among the first so many bytes, where no padding lies
};

class FaultDevice final : public Device {
 public:
  // REQUIRES: clock outlives the device.
  FaultDevice(std::unique_ptr<Device> lower, const FaultOptions& options, const Clock& clock);

  // The count-th next request of that kind (1: the very next) gets this fault instead of a drawn one.
  void script(IoKind kind, uint64_t count, Fault fault);
  // Lets all stuck requests go; they complete as usual.
  void release_stuck();
  // From here on requests are carried out as they should be; what was hurt stays hurt.
  void stop_faults();
  // Away: it is not online, and all requests fail.
  void go_away() { away_ = true; }
  void come_back() { away_ = false; }
  [[nodiscard]] size_t stuck() const { return stuck_.size(); }
  // How often this fault was given out.
  [[nodiscard]] uint64_t count(Fault fault) const { return counts_[static_cast<size_t>(fault)]; }

  [[nodiscard]] const std::string& name() const override { return lower_->name(); }
  [[nodiscard]] DeviceLimits limits() const override { return limits_; }
  void offer(std::span<std::byte> memory) override { lower_->offer(memory); }
  Status start(std::span<const std::span<std::byte>> regions) override { return lower_->start(regions); }
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] bool discard(ByteOffset offset, uint64_t length_bytes) override {
    return lower_->discard(offset, length_bytes);
  }
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] bool online() const override { return !away_ && lower_->online(); }
  [[nodiscard]] bool reaches(const std::byte* buffer, uint32_t length_bytes) const override {
    return lower_->reaches(buffer, length_bytes);
  }
  [[nodiscard]] int wait_fd() const override { return lower_->wait_fd(); }
  [[nodiscard]] Nanos next_event_time() const override;

 private:
  struct Slot {
    IoRequest request;  // as it came
    Fault fault = Fault::none;
  };
  struct Scripted {
    IoKind kind;
    uint64_t number;
    Fault fault;
  };
  struct Delayed {
    Nanos at;
    uint32_t slot;
  };

  [[nodiscard]] Fault draw(IoKind kind);
  void send_delayed(Nanos now);
  [[nodiscard]] bool send(uint32_t slot);
  [[nodiscard]] IoCompletion finish(IoCompletion completion);
  void corrupt(const Slot& slot, IoCompletion& completion);

  bool away_ = false;
  std::unique_ptr<Device> lower_;
  FaultOptions options_;
  const Clock& clock_;
  DeviceLimits limits_;
  Prng prng_;
  std::vector<Slot> slots_;
  BoundedQueue<uint32_t> free_slots_;
  BoundedQueue<Delayed> late_;    // in order of time, as late_by is one for all
  BoundedQueue<uint32_t> stuck_;  // waiting for release_stuck()
  BoundedQueue<uint32_t> unstuck_;
  bool refused_ = false;          // the first of late_ or unstuck_, by the lower device
  std::optional<Fault> pending_;  // drawn for a request that the lower device refused
  std::vector<Scripted> script_;
  std::array<uint64_t, 2> submitted_{};  // by kind
  std::array<uint64_t, faults> counts_{};
  std::vector<std::unique_ptr<std::byte[]>> copies_;
};

}  // namespace kvpool
