#include "bench/meter_transfer.h"

#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <thread>

#include "bench/testing/test_machine.h"
#include "io/memory/memory_device.h"

namespace kvpool::bench {
namespace {

constexpr uint32_t page = 4096;

// Carries jobs out when the test says so, the newest first.
class HeldTransfer final : public Transfer {
 public:
  [[nodiscard]] bool submit(const TransferJob& job) override {
    if (jobs.size() == room) return false;
    jobs.push_back(job);
    return true;
  }
  [[nodiscard]] size_t poll(std::span<TransferCompletion> out) override {
    size_t count = 0;
    for (; count < out.size() && may_complete > 0 && !jobs.empty(); ++count, --may_complete) {
      out[count] = {.tag = jobs.back().tag, .checksum = jobs.back().seed};
      jobs.pop_back();
    }
    return count;
  }

  std::deque<TransferJob> jobs;
  size_t room = SIZE_MAX;
  size_t may_complete = 0;
};

void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

class MeterTransferTest : public testing::Test {
 protected:
  void SetUp() override {
    const DeviceHooks hooks = meter_hooks(meters_, false);
    memory_ = hooks.decorate(std::make_unique<MemoryDevice>("memory0", std::span(bytes_).first(8 * page)));
    storage_ = hooks.decorate(std::make_unique<RamStorage>("file0", 8 * page, 4));
    auto held = std::make_unique<HeldTransfer>();
    held_ = held.get();
    transfer_ = hooks.decorate_transfer(std::move(held));
    ASSERT_EQ(meters_.devices.size(), 2U);
    begin_ = clock_.now();
    for (MeterDevice* meter : meters_.devices) meter->start_record(begin_);
  }

  // Reads from a device; where the bytes lie, if in place.
  std::byte* read(Device& device, uint64_t offset) {
    EXPECT_TRUE(device.submit(
        {.kind = IoKind::read, .offset = ByteOffset(offset), .length_bytes = page, .buffer = consumer()}));
    std::array<IoCompletion, 1> done;
    EXPECT_EQ(device.poll(done), 1U);
    return done[0].in_place;
  }
  [[nodiscard]] bool copy(const std::byte* from, std::byte* to, uint64_t tag) {
    return transfer_->submit(
        {.source = from, .destination = to, .length_bytes = page, .seed = tag + 100, .tag = tag});
  }
  std::vector<uint64_t> complete(size_t count) {
    held_->may_complete = count;
    std::array<TransferCompletion, 8> done;
    std::vector<uint64_t> tags;
    for (const TransferCompletion& completion : std::span(done).first(transfer_->poll(done))) {
      EXPECT_EQ(completion.checksum, completion.tag + 100);
      tags.push_back(completion.tag);
    }
    return tags;
  }
  [[nodiscard]] double busy_s(size_t device) const {
    return std::chrono::duration<double>(meters_.devices[device]->counters().busy).count();
  }
  std::byte* consumer() { return bytes_.data() + 8 * page; }

  alignas(page) std::array<std::byte, 9 * page> bytes_{};
  Meters meters_;
  std::unique_ptr<Device> memory_, storage_;
  HeldTransfer* held_ = nullptr;
  std::unique_ptr<Transfer> transfer_;
  SteadyClock clock_;
  Nanos begin_{0};
};

TEST_F(MeterTransferTest, MemoryIsBusyFromItsFirstCopyToItsLast) {
  std::byte* const first = read(*memory_, 2 * page);
  std::byte* const second = read(*memory_, 5 * page);
  const double before_s = busy_s(0);
  ASSERT_TRUE(copy(first, consumer(), 7));
  const Nanos copying = clock_.now();
  pause();
  ASSERT_TRUE(copy(consumer(), second, 7 + (1ULL << 40)));  // a write; tags are the caller's
  EXPECT_EQ(complete(1), std::vector<uint64_t>{7 + (1ULL << 40)});
  pause();
  EXPECT_EQ(busy_s(0), before_s);  // one is still under way
  const Nanos last = clock_.now();
  EXPECT_EQ(complete(1), std::vector<uint64_t>{7});
  EXPECT_GE(busy_s(0), before_s + 0.04);
  const Nanos idle = clock_.now();
  pause();
  const Timeline& record = meters_.devices[0]->record();
  EXPECT_GT(fractions_of(record, copying, last - copying, 1)[0], 0.99);
  EXPECT_LT(fractions_of(record, idle, clock_.now() - idle, 1)[0], 0.01);
}

TEST_F(MeterTransferTest, AWriteIntoMemoryCountsToo) {
  std::byte* const at = read(*memory_, 0);
  const double before_s = busy_s(0);
  ASSERT_TRUE(copy(consumer(), at, 1));
  EXPECT_EQ(complete(1), std::vector<uint64_t>{1});
  EXPECT_GT(busy_s(0), before_s);
}

TEST_F(MeterTransferTest, CopiesOfNoDevicesMemoryAreNobodys) {
  ASSERT_NE(read(*memory_, 0), nullptr);
  ASSERT_EQ(read(*storage_, 0), nullptr);
  const double memory_s = busy_s(0);
  const double storage_s = busy_s(1);
  ASSERT_TRUE(copy(consumer(), nullptr, 1));  // a checksum of what came from storage
  EXPECT_EQ(complete(1), std::vector<uint64_t>{1});
  EXPECT_EQ(busy_s(0), memory_s);
  EXPECT_EQ(busy_s(1), storage_s);
}

TEST_F(MeterTransferTest, RefusesWhatTheTransferBelowRefusesAndForgetsNothing) {
  std::byte* const at = read(*memory_, 0);
  held_->room = 1;
  ASSERT_TRUE(copy(at, consumer(), 1));
  EXPECT_FALSE(copy(at, consumer(), 2));
  EXPECT_EQ(complete(1), std::vector<uint64_t>{1});
  const double before_s = busy_s(0);
  ASSERT_TRUE(copy(at, consumer(), 3));
  EXPECT_EQ(complete(1), std::vector<uint64_t>{3});
  EXPECT_GT(busy_s(0), before_s);  // nothing of the refused one is left under way
  held_->room = SIZE_MAX;
  for (uint32_t i = 0; i < MeterTransfer::jobs_max; ++i) ASSERT_TRUE(copy(at, consumer(), i));
  EXPECT_FALSE(copy(at, consumer(), 0));
  EXPECT_EQ(complete(1), std::vector<uint64_t>{MeterTransfer::jobs_max - 1});
  EXPECT_TRUE(copy(at, consumer(), 0));
}

}  // namespace
}  // namespace kvpool::bench
