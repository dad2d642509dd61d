// For the engine's tests: an engine over simulated devices in virtual time, and one consumer. One thread.

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "base/prng.h"
#include "engine/engine.h"
#include "io/fault_device.h"
#include "io/sim/sim_device.h"
#include "io/sim/sim_transfer.h"

namespace kvpool {

// Notes the kinds of the requests that a device accepts.
class NotingDevice final : public Device {
 public:
  explicit NotingDevice(Device& lower) : lower_(lower) {}
  [[nodiscard]] const std::string& name() const override { return lower_.name(); }
  [[nodiscard]] DeviceLimits limits() const override { return lower_.limits(); }
  [[nodiscard]] bool submit(const IoRequest& request) override {
    const bool taken = lower_.submit(request);
    if (taken) kinds.push_back(request.kind);
    return taken;
  }
  [[nodiscard]] bool discard(ByteOffset offset, uint64_t length_bytes) override {
    return lower_.discard(offset, length_bytes);
  }
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override { return lower_.poll(out); }
  [[nodiscard]] bool online() const override { return lower_.online(); }
  [[nodiscard]] Nanos next_event_time() const override { return lower_.next_event_time(); }

  std::vector<IoKind> kinds;

 private:
  Device& lower_;
};

inline Geometry uniform(uint32_t segments) {
  return {.name = "test", .segment_bytes = std::vector<uint32_t>(segments, 4096)};
}

inline SimDeviceOptions drive(double bytes_per_second = 1e9, Nanos latency = std::chrono::microseconds(100)) {
  return {.name = "drive",
          .size_bytes = 16 << 20,
          .read_bytes_per_second = bytes_per_second,
          .write_bytes_per_second = bytes_per_second,
          .latency = latency};
}

inline SimDeviceOptions host_memory() {
  SimDeviceOptions options = drive(1e10, std::chrono::microseconds(1));
  options.name = "memory";
  options.in_place = true;
  options.storage = false;
  return options;
}

class EngineFixture : public testing::Test {
 protected:
  static constexpr uint32_t segment_bytes = 4096;
  static constexpr uint32_t blocks_max = 64;

  struct Machine {
    std::vector<SimDeviceOptions> devices;
    std::vector<double> shares;
    uint64_t window_bytes = 64 * 4096;
    uint32_t tickets_max = 8;
    Verify verify = Verify::always;
    SimTransferOptions transfer;
    uint32_t transfer_workers = 1;  // that the engine knows of
  };

  void open(const Machine& machine, const Geometry& geometry) {
    CatalogOptions catalog_options;
    EngineOptions options;
    Engine::Wiring wiring;
    staging_.resize(machine.devices.size());
    bool has_memory = false;
    for (size_t i = 0; i < machine.devices.size(); ++i) {
      auto sim = std::make_unique<SimDevice>(clock, machine.devices[i]);
      media.push_back(sim.get());
      faults.push_back(std::make_unique<FaultDevice>(std::move(sim), FaultOptions{}, clock));
      devices.push_back(std::make_unique<NotingDevice>(*faults.back()));
      const DeviceLimits limits = devices.back()->limits();
      has_memory |= limits.in_place;
      options.profile.devices.push_back({.name = devices.back()->name(),
                                         .read_bytes_per_second = machine.devices[i].read_bytes_per_second,
                                         .queue_bytes = machine.window_bytes,
                                         .storage = limits.storage});
      wiring.devices.push_back(devices.back().get());
      staging_[i].resize(limits.in_place ? 0 : 65 * 4096);
      wiring.staging.push_back(limits.in_place ? std::span<std::byte>() : aligned(staging_[i]));
    }
    catalog_options.devices = Engine::catalog_devices(wiring.devices, machine.shares);
    catalog_options.blocks_max = 1024;
    catalog_options.residences_max = has_memory ? 2 : 1;
    auto opened = Catalog::open(catalog_options);
    ASSERT_TRUE(opened.has_value()) << opened.error().message;
    catalog = std::move(*opened);
    transfer = std::make_unique<SimTransfer>(clock, machine.transfer);
    options.shares = machine.shares;
    options.tickets_max = machine.tickets_max;
    options.verify = machine.verify;
    options.transfer_workers = machine.transfer_workers;
    options.deadline = std::chrono::seconds(10);
    wiring.clock = &clock;
    wiring.catalog = catalog.get();
    wiring.transfer = transfer.get();
    engine = std::make_unique<Engine>(wiring, options);
    ASSERT_TRUE(engine->add_namespace(geometry, false).has_value());
    segments = geometry.segments();
    sizes_ = geometry.segment_bytes;
    stride_bytes_ = *std::ranges::max_element(sizes_);
    memory_.resize(data_at() + uint64_t{4} * blocks_max * segments * stride_bytes_ + 8192);
    ASSERT_TRUE(port.regions.add(aligned(memory_)));
    ASSERT_EQ(engine->attach(port), Errc::ok);
  }

  // Block `block` of document `document`; the consumer has room for four documents.
  [[nodiscard]] BlockKey key(uint32_t document, uint32_t block) const { return {document + 1, block}; }
  [[nodiscard]] std::span<std::byte> data(uint32_t document, uint32_t block, uint32_t segment) {
    const uint64_t number = (uint64_t{document} * blocks_max + block) * segments + segment;
    return aligned(memory_).subspan(data_at() + number * stride_bytes_, sizes_[segment]);
  }
  [[nodiscard]] static std::byte payload(uint32_t document, uint32_t block, uint32_t segment) {
    return static_cast<std::byte>(mix64(document * 1000003ULL + block * 1009ULL + segment) | 1);
  }
  [[nodiscard]] bool is_right(uint32_t document, uint32_t block, uint32_t segment) {
    return std::ranges::all_of(data(document, block, segment),
                               [&](std::byte b) { return b == payload(document, block, segment); });
  }
  void write_payload(uint32_t document, uint32_t blocks) {
    for (uint32_t b = 0; b < blocks; ++b) {
      for (uint32_t s = 0; s < segments; ++s)
        std::ranges::fill(data(document, b, s), payload(document, b, s));
    }
  }
  void wipe() { std::ranges::fill(aligned(memory_).subspan(data_at()), std::byte{0}); }

  // A message about the first `blocks` blocks of a document, keys and buffers laid out.
  Submission message(Op op, uint32_t document, uint32_t blocks) {
    const uint64_t keys_at = uint64_t{document} * blocks_max * sizeof(BlockKey);
    const uint64_t addresses_at = uint64_t{4} * blocks_max * sizeof(BlockKey) +
                                  uint64_t{document} * blocks_max * segments * sizeof(RegionAddress);
    auto* keys = reinterpret_cast<BlockKey*>(aligned(memory_).data() + keys_at);
    auto* addresses = reinterpret_cast<RegionAddress*>(aligned(memory_).data() + addresses_at);
    for (uint32_t b = 0; b < blocks; ++b) {
      keys[b] = key(document, b);
      for (uint32_t s = 0; s < segments; ++s) {
        addresses[b * segments + s] = port.regions.address_of(data(document, b, s).data());
      }
    }
    Submission out;
    out.op = op;
    out.blocks = blocks;
    out.keys = RegionAddress(keys_at);
    out.buffers = RegionAddress(addresses_at);
    return out;
  }
  // Returns the slot.
  uint16_t send(Submission out) {
    out.slot = next_slot_++;
    out.user_data = out.slot;
    EXPECT_TRUE(port.channel.submissions.push(out));
    return out.slot;
  }

  struct Ends {
    std::optional<Completion> result;
    Nanos result_at{0};
    std::optional<Nanos> released_at;
  };
  [[nodiscard]] const Ends& ends(uint16_t slot) const { return ends_[slot]; }
  // One step, then time moves to the next event if nothing happened.
  void step() {
    const bool worked = engine->step();
    Completion completion;
    while (port.channel.completions.pop(completion)) {
      Ends& of = ends_[completion.slot];
      if (completion.kind == CompletionKind::release) {
        of.released_at = clock.now();
        continue;
      }
      of.result = completion;
      of.result_at = clock.now();
    }
    if (worked || engine->is_idle()) return;
    const Nanos next = engine->next_event_time();
    ASSERT_NE(next, never) << "the engine hangs:\n" << engine->outstanding();
    clock.advance_to(std::max(clock.now(), next));
  }
  Completion finish(uint16_t slot) {
    for (uint32_t i = 0; i < 1'000'000 && !ends_[slot].released_at && !HasFatalFailure(); ++i) step();
    EXPECT_TRUE(ends_[slot].released_at.has_value());
    return ends_[slot].result.value_or(Completion{.code = Errc::system});
  }
  void store(uint32_t document, uint32_t blocks) {
    write_payload(document, blocks);
    const Completion done = finish(send(message(Op::store, document, blocks)));
    ASSERT_EQ(done.code, Errc::ok);
    ASSERT_EQ(done.blocks, blocks);
  }
  PinId pin(uint32_t document, uint32_t blocks) {
    Submission match = message(Op::match, document, blocks);
    match.flags = flag_pin;
    return finish(send(match)).pin;
  }

  VirtualClock clock;
  std::vector<SimDevice*> media;
  std::vector<std::unique_ptr<FaultDevice>> faults;
  std::vector<std::unique_ptr<NotingDevice>> devices;
  std::unique_ptr<Catalog> catalog;
  std::unique_ptr<SimTransfer> transfer;
  std::unique_ptr<Engine> engine;
  ConsumerPort port;
  uint32_t segments = 0;

 private:
  [[nodiscard]] static std::span<std::byte> aligned(std::vector<std::byte>& bytes) {
    const size_t skip = (4096 - reinterpret_cast<uintptr_t>(bytes.data()) % 4096) % 4096;
    return std::span(bytes).subspan(skip, (bytes.size() - skip) / 4096 * 4096);
  }
  [[nodiscard]] uint64_t data_at() const {
    const uint64_t bytes = uint64_t{4} * blocks_max * (sizeof(BlockKey) + segments * sizeof(RegionAddress));
    return (bytes + 4095) / 4096 * 4096;
  }

  std::vector<uint32_t> sizes_;  // of the segments
  uint64_t stride_bytes_ = 0;
  std::vector<std::vector<std::byte>> staging_;
  std::vector<std::byte> memory_;
  uint16_t next_slot_ = 0;
  std::array<Ends, slots_max> ends_{};
};

}  // namespace kvpool
