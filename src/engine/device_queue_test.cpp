#include "engine/device_queue.h"

#include <gtest/gtest.h>

#include "base/units.h"
#include "io/test_device.h"

namespace kvpool {
namespace {

constexpr uint32_t segment_bytes = 4096;
constexpr uint32_t columns = 4;

class DeviceQueueTest : public testing::Test {
 protected:
  using Kind = DeviceQueue::Kind;

  DeviceQueueTest()
      : device_(true, 64), table_(8, 1024, 256), queue_(DeviceId(0), device_, table_, {}, {.name = "test"}) {}

  Ticket& add_ticket(uint32_t blocks) {
    Ticket& ticket = *table_.take();
    ticket.op = Op::retrieve;
    ticket.geometry = &geometry_;
    ticket.columns = columns;
    ticket.blocks = blocks;
    ticket.urgent_at = ticket.deadline = never;
    return ticket;
  }
  // Layer by layer, as a retrieve does.
  void enqueue_all(Ticket& ticket) {
    for (uint32_t column = 0; column < columns; ++column) {
      for (uint32_t block = 0; block < ticket.blocks; ++block) {
        const PartHandle handle = table_.handle(ticket, column, block);
        table_.part(handle) = {.device = DeviceId(0)};
        queue_.enqueue(ticket, handle);
      }
    }
  }
  // Takes the next part; returns whose it was.
  Ticket* take_next(Nanos now = Nanos{0}) {
    Ticket* ticket = queue_.pick(Kind::read, now);
    if (ticket != nullptr) taken_.push_back(queue_.take(*ticket, now));
    return ticket;
  }

  Geometry geometry_{.name = "test", .segment_bytes = std::vector<uint32_t>(columns, segment_bytes)};
  TestDevice device_;
  TicketTable table_;
  DeviceQueue queue_;
  std::vector<PartHandle> taken_;
};

TEST_F(DeviceQueueTest, ANewcomerNeitherWaitsForALargeTicketNorStarvesIt) {
  Ticket& large = add_ticket(200);
  enqueue_all(large);
  for (int i = 0; i < 300; ++i) ASSERT_EQ(take_next(), &large);
  Ticket& small = add_ticket(2);  // eight parts
  enqueue_all(small);
  int small_parts = 0;
  for (int i = 0; i < 8; ++i) small_parts += take_next() == &small ? 1 : 0;
  EXPECT_EQ(small_parts, 4);
  for (int i = 0; i < 8; ++i) small_parts += take_next() == &small ? 1 : 0;
  EXPECT_EQ(small_parts, 8);
}

// Requests of one part each, the next as soon as one is served: each comes as a newcomer.
TEST_F(DeviceQueueTest, AStreamOfSmallTicketsDoesNotStarveALargeOne) {
  Ticket& large = add_ticket(200);
  enqueue_all(large);
  int large_parts = 0;
  for (int i = 0; i < 100; ++i) {
    Ticket& small = add_ticket(1);
    table_.part(table_.handle(small, 0, 0)) = {.device = DeviceId(0)};
    queue_.enqueue(small, table_.handle(small, 0, 0));
    while (take_next() == &large) ++large_parts;
    --small.outstanding;
    table_.give_back(small);
  }
  EXPECT_GE(large_parts, 50);
}

// A consumer that asks for its layers one by one has no more of the device than one that asks for all at
// once, and gets them one after the other.
TEST_F(DeviceQueueTest, TicketsOfOnePinShareOneTurnInTheirOrder) {
  std::vector<Ticket*> pieces;
  for (int i = 0; i < 3; ++i) {
    pieces.push_back(&add_ticket(2));  // eight parts
    pieces.back()->redeemed = PinId(7);
    enqueue_all(*pieces.back());
  }
  Ticket& other = add_ticket(6);
  enqueue_all(other);
  std::vector<Ticket*> order;
  int other_parts = 0;
  for (int i = 0; i < 48; ++i) {
    Ticket* ticket = take_next();
    if (ticket == &other) {
      ++other_parts;
    } else if (order.empty() || order.back() != ticket) {
      order.push_back(ticket);
    }
    if (i == 15) {
      EXPECT_EQ(other_parts, 8);
    }
  }
  EXPECT_EQ(order, pieces);
}

// As each piece ends, its ticket is dropped from every device.
TEST_F(DeviceQueueTest, PiecesKeepTheirOrderWhenTheOneBeforeThemEnds) {
  const Geometry large{.name = "large", .segment_bytes = std::vector<uint32_t>(columns, 64 * segment_bytes)};
  Ticket& other = add_ticket(200);
  other.geometry = &large;
  enqueue_all(other);
  std::vector<Ticket*> pieces;
  for (int i = 0; i < 6; ++i) {
    pieces.push_back(&add_ticket(1));  // four parts
    pieces.back()->redeemed = PinId(7);
    enqueue_all(*pieces.back());
  }
  std::vector<Ticket*> order;
  for (int parts = 0; parts < 24;) {
    Ticket* ticket = take_next();
    if (ticket == &other) continue;
    ++parts;
    if (order.empty() || order.back() != ticket) order.push_back(ticket);
    if (ticket->lanes[0].queued_bytes == 0) queue_.drop(*ticket, 0);
  }
  EXPECT_EQ(order, pieces);
}

TEST_F(DeviceQueueTest, WhatAnUrgentTicketGetsIsNotANewcomersToWaitFor) {
  Ticket& patient = add_ticket(200);
  enqueue_all(patient);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(take_next(), &patient);
  Ticket& urgent = add_ticket(100);
  urgent.urgent_at = Nanos(0);
  enqueue_all(urgent);
  for (int i = 0; i < 400; ++i) ASSERT_EQ(take_next(), &urgent);
  Ticket& newcomer = add_ticket(1);
  enqueue_all(newcomer);
  int waited = 0;
  while (take_next() == &patient) ++waited;
  EXPECT_LE(waited, 1);
}

TEST_F(DeviceQueueTest, TwoConsumersOfOnePinAreTwoRequests) {
  ConsumerPort one;
  ConsumerPort another;
  Ticket& large = add_ticket(100);
  Ticket& small = add_ticket(2);
  large.redeemed = small.redeemed = PinId(7);
  large.port = &one;
  small.port = &another;
  enqueue_all(large);
  enqueue_all(small);
  int small_parts = 0;
  for (int i = 0; i < 16; ++i) small_parts += take_next() == &small ? 1 : 0;
  EXPECT_EQ(small_parts, 8);
}

TEST_F(DeviceQueueTest, APieceDoesNotWaitForThePieceBeforeItThatIsNotWantedAnyMore) {
  Ticket& gone = add_ticket(100);
  Ticket& next = add_ticket(2);
  Ticket& other = add_ticket(50);
  gone.redeemed = next.redeemed = PinId(7);
  other.redeemed = PinId(0);
  for (Ticket* ticket : {&gone, &next, &other}) enqueue_all(*ticket);
  queue_.drop(gone, 0);
  int next_parts = 0;
  for (int i = 0; i < 16; ++i) next_parts += take_next() == &next ? 1 : 0;
  EXPECT_EQ(next_parts, 8);
}

// A store that had much from the device leaves nothing behind for the retrieve that has its place in the
// table.
TEST_F(DeviceQueueTest, ATicketThatIsUsedAgainStartsAfresh) {
  Ticket& store = add_ticket(100);
  store.op = Op::store;
  enqueue_all(store);
  while (Ticket* ticket = queue_.pick(Kind::write, Nanos{0})) {
    const PartHandle handle = queue_.take(*ticket, Nanos{0});
    table_.part(handle).state = PartState::done;
    --ticket->outstanding;
  }
  table_.give_back(store);
  Ticket& again = add_ticket(8);
  ASSERT_EQ(&again, &store);
  Ticket& other = add_ticket(8);
  enqueue_all(other);
  enqueue_all(again);
  int parts = 0;
  for (int i = 0; i < 8; ++i) parts += take_next() == &again ? 1 : 0;
  EXPECT_EQ(parts, 4);
}

TEST_F(DeviceQueueTest, WhatIsUrgentGoesFirstAndOfThatTheEarliestDeadline) {
  Ticket& patient = add_ticket(1);
  Ticket& late = add_ticket(1);
  Ticket& early = add_ticket(1);
  for (Ticket* ticket : {&patient, &late, &early}) enqueue_all(*ticket);
  late.deadline = Nanos(300);
  late.urgent_at = Nanos(100);
  early.deadline = Nanos(200);
  early.urgent_at = Nanos(150);
  EXPECT_EQ(queue_.pick(Kind::read, Nanos(99)), &patient);
  for (uint32_t i = 0; i < 2; ++i) EXPECT_EQ(take_next(Nanos(149)), &late);
  for (uint32_t i = 0; i < columns; ++i) EXPECT_EQ(take_next(Nanos(150)), &early);
  for (uint32_t i = 0; i < 2; ++i) EXPECT_EQ(take_next(Nanos(150)), &late);
  for (uint32_t i = 0; i < columns; ++i) EXPECT_EQ(take_next(Nanos(150)), &patient);
  EXPECT_EQ(take_next(Nanos(150)), nullptr);
}

class WindowTest : public testing::Test {
 protected:
  static constexpr uint32_t blocks = 256;
  static constexpr size_t size = 64 * size_t{mib};

  // Segments that are issued, and started, before no more may be.
  [[nodiscard]] std::pair<uint32_t, uint32_t> fill(DeviceQueue& queue, uint32_t part_bytes = mib) {
    geometry_.segment_bytes = {part_bytes};
    Ticket& ticket = *table_.take();
    ticket.op = Op::retrieve;
    ticket.geometry = &geometry_;
    ticket.columns = 1;
    ticket.blocks = blocks;
    ticket.urgent_at = ticket.deadline = never;
    for (uint32_t block = 0; block < blocks; ++block) {
      const PartHandle handle = table_.handle(ticket, 0, block);
      table_.part(handle) = {.device = DeviceId(0)};
      queue.enqueue(ticket, handle);
    }
    uint32_t issued = 0;
    uint32_t started = 0;
    for (; issued < blocks && queue.may_issue(part_bytes); ++issued) {
      const PartHandle handle = queue.take(ticket, Nanos{0});
      if (!queue.may_start(part_bytes)) continue;
      queue.start(handle, IoKind::read, nullptr);
      EXPECT_TRUE(queue.flush());
      ++started;
    }
    return {issued, started};
  }

  Geometry geometry_{.name = "test"};
  TicketTable table_{16, 1024, blocks};
};

// How much goes to a drive before the first of it is back.
TEST_F(WindowTest, OfStorageIsWhatItGivesInSomeMilliseconds) {
  TestDevice drive(false, 8 * blocks, size);
  using std::chrono::microseconds;
  const auto started = [&](const DeviceProfile& profile, uint32_t part_bytes = mib / 8) {
    DeviceQueue queue(DeviceId(0), drive, table_, {}, profile);
    return fill(queue, part_bytes).second;
  };
  const DeviceProfile slow{.read_bytes_per_second = 2.1e9, .read_latency = microseconds(500)};
  EXPECT_EQ(started(slow), 80U) << "in 5 ms";
  DeviceProfile late = slow;
  late.read_latency = microseconds(2500);
  EXPECT_EQ(started(late), 160U) << "in four times its latency";
  DeviceProfile crowded = slow;
  crowded.together_bytes_per_second = 1.05e9;
  EXPECT_EQ(started(crowded), 40U) << "beside the others";
  DeviceProfile writes = slow;
  writes.write_bytes_per_second = 1.05e9;
  writes.write_latency = microseconds(4000);
  EXPECT_EQ(started(writes), 128U) << "writes want more";
  EXPECT_EQ(started({.read_bytes_per_second = 14e9}), 8 * 32U);
  EXPECT_EQ(started({.read_bytes_per_second = 1e6}), 8 * 4U);
  EXPECT_EQ(started(slow, 6 * mib), 2U) << "one is there while the other's end is noticed";
  EXPECT_EQ(started(slow, 20 * mib), 1U) << "two are more than any drive is given";
  DeviceProfile measured = slow;
  measured.queue_bytes = 8 * mib;
  EXPECT_EQ(started(measured), 8 * 8U);
  EXPECT_EQ(started(measured, 6 * mib), 1U) << "as it was measured";
  measured.queue_bytes = 32 * mib;
  EXPECT_EQ(started(measured), 80U) << "more would wait for each other";
  EXPECT_EQ(started(measured, 6 * mib), 2U) << "as where nothing was measured";
  measured.read_latency = Nanos{0};
  EXPECT_EQ(started(measured), 8 * 32U) << "they may be what a long latency wants";
}

TEST_F(WindowTest, OfStorageIs32MibWhereNoRateIsKnown) {
  TestDevice one(false, blocks, size);
  DeviceQueue unknown(DeviceId(0), one, table_, {}, {.name = "test"});
  EXPECT_EQ(fill(unknown), std::pair(64U, 32U));  // as many again wait for their sums
  TestDevice another(false, blocks, size);
  DeviceQueue known(DeviceId(0), another, table_, {}, {.name = "test", .queue_bytes = 18 * mib});
  EXPECT_EQ(fill(known), std::pair(36U, 18U));
}

TEST_F(WindowTest, OfMemoryIs4MibForEachWorkerAnd8AtLeast) {
  TestDevice device(true, blocks, size);
  for (const auto& [workers, wanted] : {std::pair(1U, 8U), std::pair(2U, 8U), std::pair(8U, 32U)}) {
    DeviceQueue queue(DeviceId(0), device, table_, {}, {.name = "test"}, workers);
    EXPECT_EQ(fill(queue).first, wanted) << workers;
  }
}

// Moves half of what it is asked for, and says that all is well.
class HalfDevice final : public Device {
 public:
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] DeviceLimits limits() const override {
    return {.size_bytes = 1 << 20, .transfer_bytes_max = 1 << 20, .queue_depth_max = 1};
  }
  [[nodiscard]] bool submit(const IoRequest& request) override {
    request_ = request;
    return true;
  }
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override {
    out[0] = {.tag = request_.tag, .bytes = request_.length_bytes / 2, .code = Errc::ok};
    return 1;
  }

 private:
  std::string name_ = "half";
  IoRequest request_;
};

TEST_F(DeviceQueueTest, FewerBytesThanAskedForAreNeverASuccess) {
  HalfDevice half;
  DeviceQueue queue(DeviceId(0), half, table_, {}, {.name = "half"});
  Ticket& ticket = add_ticket(1);
  const PartHandle handle = table_.handle(ticket, 0, 0);
  table_.part(handle) = {.device = DeviceId(0)};
  queue.enqueue(ticket, handle);
  EXPECT_EQ(queue.take(ticket, Nanos{0}), handle);
  std::array<std::byte, segment_bytes> buffer;
  queue.start(handle, IoKind::read, buffer.data());
  uint32_t arrived = 0;
  EXPECT_TRUE(queue.poll(Nanos{0}, [&](PartHandle) { ++arrived; }));
  EXPECT_EQ(arrived, 1U);
  EXPECT_EQ(table_.part(handle).code, Errc::short_io);
}

TEST_F(DeviceQueueTest, DropTakesTheLaterBlocksAndKeepsTheOrderOfTheRest) {
  Ticket& ticket = add_ticket(5);
  enqueue_all(ticket);
  queue_.drop(ticket, 2);
  EXPECT_EQ(queue_.queued_bytes(), 2 * columns * segment_bytes);
  EXPECT_EQ(table_.part(table_.handle(ticket, 0, 2)).state, PartState::idle);
  while (take_next() != nullptr) {
  }
  std::vector<PartHandle> expected;
  for (uint32_t column = 0; column < columns; ++column) {
    for (uint32_t block = 0; block < 2; ++block) expected.push_back(table_.handle(ticket, column, block));
  }
  EXPECT_EQ(taken_, expected);
}

TEST_F(DeviceQueueTest, DroppingAllTakesTheTicketOffTheDevice) {
  Ticket& gone = add_ticket(2);
  Ticket& stays = add_ticket(2);
  enqueue_all(gone);
  enqueue_all(stays);
  queue_.drop(gone, 0);
  EXPECT_EQ(queue_.pick(Kind::read, Nanos(0)), &stays);
  queue_.drop(stays, 0);
  EXPECT_FALSE(queue_.has_queued(Kind::read));
  EXPECT_EQ(queue_.queued_bytes(), 0U);
}

}  // namespace
}  // namespace kvpool
