#include "bench/block_mover.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>

#include "base/assert.h"

namespace kvpool::bench {
namespace {

constexpr size_t poll_batch = 64;
constexpr Nanos sleep_max = std::chrono::milliseconds(100);

constexpr uint64_t to_tag(uint32_t slot, size_t part) { return uint64_t{slot} << 32 | part; }
constexpr uint32_t slot_of(uint64_t tag) { return static_cast<uint32_t>(tag >> 32); }
constexpr uint32_t part_of(uint64_t tag) { return static_cast<uint32_t>(tag); }

}  // namespace

BlockMover::BlockMover(std::vector<Device*> devices, Transfer& transfer, std::span<std::byte> memory,
                       uint64_t slot_bytes)
    : devices_(std::move(devices)), transfer_(transfer), slots_(memory.size() / slot_bytes) {
  KVPOOL_ASSERT(!slots_.empty());
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    slots_[i].memory = memory.subspan(i * slot_bytes, slot_bytes);
    free_.push_back(i);
  }
}

std::optional<uint32_t> BlockMover::take() {
  if (free_.empty()) return std::nullopt;
  const uint32_t slot = free_.front();
  free_.pop_front();
  return slot;
}

void BlockMover::begin(uint32_t slot, IoKind kind, uint32_t device, ByteOffset offset,
                       std::span<const BlockPart> parts) {
  KVPOOL_ASSERT(!parts.empty());
  Slot& to = slots_[slot];
  to = {.memory = to.memory, .parts = parts, .offset = offset, .device = device, .kind = kind};
  issuing_.push_back(slot);
}

std::optional<uint32_t> BlockMover::finished() {
  if (finished_.empty()) return std::nullopt;
  const uint32_t slot = finished_.front();
  finished_.erase(finished_.begin());
  return slot;
}

void BlockMover::release(uint32_t slot) { free_.push_back(slot); }

Status BlockMover::advance() {
  bool moved = issue();
  moved |= poll_devices();
  moved |= copy_pending();
  moved |= poll_transfer();
  if (failure_ != Errc::ok) {
    return fail(failure_, fmt::format("{}: a request of the benchmark failed: {}",
                                      devices_[failed_device_]->name(), to_string(failure_)));
  }
  if (!moved && outstanding_ > 0 && finished_.empty()) sleep();
  return {};
}

void BlockMover::drain() {
  issuing_.clear();
  while (outstanding_ > 0) {
    bool moved = poll_devices();
    moved |= copy_pending();
    moved |= poll_transfer();
    if (!moved) sleep();
  }
}

bool BlockMover::issue() {
  bool moved = false;
  size_t kept = 0;
  for (const uint32_t slot : issuing_) {
    moved |= issue_slot(slot);
    if (slots_[slot].issued < slots_[slot].parts.size()) issuing_[kept++] = slot;
  }
  issuing_.resize(kept);
  return moved;
}

bool BlockMover::issue_slot(uint32_t index) {
  Slot& slot = slots_[index];
  const size_t before = slot.issued;
  while (slot.issued < slot.parts.size()) {
    const BlockPart& part = slot.parts[slot.issued];
    const IoRequest request{.kind = slot.kind,
                            .offset = ByteOffset(slot.offset.value + part.offset),
                            .length_bytes = part.bytes,
                            .buffer = slot.memory.data() + part.offset,
                            .tag = to_tag(index, slot.issued)};
    if (!devices_[slot.device]->submit(request)) break;
    ++slot.issued;
    ++outstanding_;
  }
  return slot.issued > before;
}

bool BlockMover::poll_devices() {
  std::array<IoCompletion, poll_batch> done;
  bool moved = false;
  for (Device* device : devices_) {
    const size_t count = device->poll(done);
    for (size_t i = 0; i < count; ++i) device_done(done[i]);
    moved |= count > 0;
  }
  return moved;
}

void BlockMover::device_done(const IoCompletion& completion) {
  const Slot& slot = slots_[slot_of(completion.tag)];
  const BlockPart& part = slot.parts[part_of(completion.tag)];
  if (completion.code != Errc::ok || completion.bytes != part.bytes) {
    failure_ = completion.code != Errc::ok ? completion.code : Errc::short_io;
    failed_device_ = slot.device;
    --outstanding_;
    return;
  }
  if (completion.in_place == nullptr) {
    part_done(completion.tag);
    return;
  }
  std::byte* const own = slot.memory.data() + part.offset;
  const bool reading = slot.kind == IoKind::read;
  copies_.push_back({.source = reading ? completion.in_place : own,
                     .destination = reading ? own : completion.in_place,
                     .length_bytes = part.bytes,
                     .tag = completion.tag});
}

bool BlockMover::copy_pending() {
  size_t taken = 0;
  while (taken < copies_.size() && transfer_.submit(copies_[taken])) ++taken;
  copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(taken));
  return taken > 0;
}

bool BlockMover::poll_transfer() {
  std::array<TransferCompletion, poll_batch> done;
  const size_t count = transfer_.poll(done);
  for (size_t i = 0; i < count; ++i) part_done(done[i].tag);
  return count > 0;
}

void BlockMover::part_done(uint64_t tag) {
  --outstanding_;
  Slot& slot = slots_[slot_of(tag)];
  if (++slot.moved == slot.parts.size()) finished_.push_back(slot_of(tag));
}

Nanos BlockMover::next_event_time() const {
  Nanos next = transfer_.next_event_time();
  for (const Device* device : devices_) next = std::min(next, device->next_event_time());
  return next;
}

void BlockMover::sleep() {
  transfer_.prepare_wait();
  // Once more, now that the Transfer will wake us.
  bool moved = poll_devices();
  moved |= poll_transfer();
  const Nanos begin = clock_.now();
  const Nanos until = std::min(next_event_time(), begin + sleep_max);
  if (!moved && until > begin) {
    std::vector<pollfd> fds;
    if (transfer_.wait_fd() >= 0) fds.push_back({transfer_.wait_fd(), POLLIN, 0});
    for (const Device* device : devices_) {
      if (device->wait_fd() >= 0) fds.push_back({device->wait_fd(), POLLIN, 0});
    }
    const auto left = until - begin;
    const timespec timeout{.tv_sec = left.count() / 1'000'000'000, .tv_nsec = left.count() % 1'000'000'000};
    ppoll(fds.data(), fds.size(), &timeout, nullptr);
  }
  transfer_.done_wait();
}

}  // namespace kvpool::bench
