// What goes wrong around a pool: bad arguments, files that are not ours, full queues, deadlines, closes under
// load, bytes that changed on the disk.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <thread>

#include "api/pool_fixture.h"

namespace kvpool::api_test {
namespace {

using std::chrono::steady_clock;

constexpr const char* slow = "limit_read = \"1MB/s\"";
const Shape large{.name = "large", .segment_bytes = std::vector<uint32_t>(4, 262144), .window = {}};

class Failure : public PoolTest {
 protected:
  [[nodiscard]] std::string message() const { return error_.message; }
  [[nodiscard]] std::string read_file() const {
    std::ifstream in(file_path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
};

TEST_F(Failure, BadOptionsTouchNothing) {
  kvpool_pool* pool = nullptr;
  EXPECT_EQ(try_open(toml({"file"}) + "sise = 3\n", &pool), KVPOOL_INVALID_ARGUMENT);
  EXPECT_NE(message().find("sise"), std::string::npos) << message();
  EXPECT_EQ(try_open("[pool\n", &pool), KVPOOL_INVALID_ARGUMENT);
  const std::string good = toml({"file"});
  kvpool_options options{.struct_size = sizeof options, .config_path = "a", .config_toml = good.c_str()};
  EXPECT_EQ(kvpool_open(&options, &pool, &error_), KVPOOL_INVALID_ARGUMENT);
  options.config_path = options.config_toml = nullptr;
  EXPECT_EQ(kvpool_open(&options, &pool, &error_), KVPOOL_INVALID_ARGUMENT);
  options.config_path = "no/such/file";
  EXPECT_NE(kvpool_open(&options, &pool, &error_), KVPOOL_OK);
  EXPECT_NE(message().find("no/such/file"), std::string::npos) << message();
  options = {.struct_size = sizeof options, .config_path = nullptr, .config_toml = good.c_str()};
  for (const size_t size : {size_t{0}, size_t{7}, SIZE_MAX}) {
    options.struct_size = size;
    EXPECT_EQ(kvpool_open(&options, &pool, &error_), KVPOOL_INVALID_ARGUMENT) << size;
  }
  EXPECT_EQ(kvpool_open(nullptr, &pool, &error_), KVPOOL_INVALID_ARGUMENT);
  options.struct_size = sizeof options;
  EXPECT_EQ(kvpool_open(&options, nullptr, nullptr), KVPOOL_INVALID_ARGUMENT);
  std::array<kvpool_memory, 17> memory{};
  options.memory_count = 1;
  EXPECT_EQ(kvpool_open(&options, &pool, &error_), KVPOOL_INVALID_ARGUMENT);
  options.memory = memory.data();
  for (const uint32_t count : {1U, 17U}) {
    options.memory_count = count;
    EXPECT_EQ(kvpool_open(&options, &pool, &error_), KVPOOL_INVALID_ARGUMENT);
    EXPECT_NE(message().find("at most 16 pieces"), std::string::npos) << message();
  }
  memory[0] = {.base = memory.data(), .bytes = uint64_t{1} << 62};
  options.memory_count = 1;
  EXPECT_EQ(kvpool_open(&options, &pool, &error_), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(pool, nullptr);
  EXPECT_FALSE(std::filesystem::exists(file_path()));
}

TEST_F(Failure, AStructOfALaterHeaderIsTakenWhileWhatIsNewIsZero) {
  struct {
    kvpool_options options;
    uint64_t later[4];
  } newer{};
  const std::string text = toml({"memory"});
  newer.options = {.struct_size = sizeof newer, .config_path = nullptr, .config_toml = text.c_str()};
  newer.later[3] = 1;
  EXPECT_EQ(kvpool_open(&newer.options, &pool_, &error_), KVPOOL_INVALID_ARGUMENT);
  newer.later[3] = 0;
  ASSERT_EQ(kvpool_open(&newer.options, &pool_, &error_), KVPOOL_OK) << message();
  // An older one is shorter: nothing is written behind it.
  kvpool_stats counts{};
  counts.struct_size = offsetof(kvpool_stats, stored_blocks);
  counts.stored_blocks = 123;
  EXPECT_EQ(kvpool_get_stats(pool_, &counts), KVPOOL_OK);
  EXPECT_EQ(counts.stored_blocks, 123U);
  kvpool_device_stats device{};
  EXPECT_EQ(kvpool_get_device_stats(pool_, 0, &device), KVPOOL_INVALID_ARGUMENT) << "struct_size is 0";
  device.struct_size = sizeof device;
  EXPECT_EQ(kvpool_get_device_stats(pool_, 1, &device), KVPOOL_INVALID_ARGUMENT);
}

TEST_F(Failure, AFileThatIsNotOursIsLeftAsItIs) {
  const std::string text = toml({"file"});
  const std::string theirs(100'000, 'x');
  std::ofstream(file_path(), std::ios::binary) << theirs;
  kvpool_pool* pool = nullptr;
  EXPECT_EQ(try_open(text, &pool), KVPOOL_NOT_OURS);
  EXPECT_NE(message().find(file_path()), std::string::npos) << message();
  EXPECT_EQ(read_file(), theirs);
  EXPECT_EQ(pool, nullptr);
}

TEST_F(Failure, AFileInUseIsRefusedAndOursIsReused) {
  const std::string text = toml({"file"});
  open(text);
  kvpool_pool* second = nullptr;
  EXPECT_EQ(try_open(text, &second), KVPOOL_IN_USE);
  EXPECT_EQ(second, nullptr);
  close();
  open(text);
}

TEST_F(Failure, ANamespaceHasOneShape) {
  open(toml({"memory", "file"}));
  const Shape shape = make({});
  EXPECT_EQ(make({}).ns, shape.ns);
  uint32_t ns = 99;
  EXPECT_EQ(kvpool_namespace_find(pool_, "chained", &ns), KVPOOL_OK);
  EXPECT_EQ(ns, shape.ns);
  EXPECT_EQ(kvpool_namespace_find(pool_, "other", &ns), KVPOOL_MISS);
  const auto refused = [&](kvpool_geometry raw) {
    ns = 99;
    const kvpool_status status = kvpool_namespace_open(pool_, &raw, &ns, &error_);
    EXPECT_EQ(ns, 99U);
    EXPECT_FALSE(message().empty());
    return status;
  };
  EXPECT_EQ(refused(Shape{.segment_bytes = {4096}}.raw()), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(refused(Shape{.window = {1, 0, 0, 0}}.raw()), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(refused(Shape{.flat = true}.raw()), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(refused(Shape{.name = ""}.raw()), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(refused(Shape{.name = "empty", .segment_bytes = {}}.raw()), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(refused(Shape{.name = "zero", .segment_bytes = {4096, 0}}.raw()), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(refused(Shape{.name = "many", .segment_bytes = std::vector<uint32_t>(129, 64)}.raw()),
            KVPOOL_INVALID_ARGUMENT);
  // Names that differ behind their beginning must not become one.
  EXPECT_EQ(make({.name = std::string(512, 'n')}).ns, 1U);
  EXPECT_EQ(refused(Shape{.name = std::string(513, 'n')}.raw()), KVPOOL_INVALID_ARGUMENT);
  // A segment that staging cannot hold could never be stored from an odd address.
  EXPECT_EQ(refused(Shape{.name = "huge", .segment_bytes = {9 << 20}}.raw()), KVPOOL_TOO_LARGE);
}

TEST_F(Failure, ConsumersAndTheirMemoryAreBounded) {
  open(toml({"memory"}, "consumers = 2"));
  Client first(pool_);
  const auto try_consumer = [&](uint64_t bytes, kvpool_consumer** made) {
    const kvpool_consumer_options options{
        .struct_size = sizeof options, .name = nullptr, .region_bytes = bytes};
    return kvpool_consumer_open(pool_, &options, made, &error_);
  };
  kvpool_consumer* refused = nullptr;
  EXPECT_EQ(try_consumer(uint64_t{17} << 20, &refused), KVPOOL_TOO_LARGE);
  EXPECT_NE(message().find("buffers"), std::string::npos) << message();
  EXPECT_EQ(try_consumer(UINT64_MAX - 1, &refused), KVPOOL_TOO_LARGE);
  {
    Client second(pool_);
    EXPECT_EQ(try_consumer(4096, &refused), KVPOOL_BUSY);
  }
  EXPECT_EQ(refused, nullptr);
  // What was refused took nothing.
  Client all(pool_, uint64_t{12} << 20);
}

// With so many descriptors more than are open now.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t more) {
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    const int next = dup(STDERR_FILENO);
    close(next);
    const rlimit limit{static_cast<rlim_t>(next) + more, before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  }
  ~DescriptorLimit() { setrlimit(RLIMIT_NOFILE, &before_); }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;

 private:
  rlimit before_{};
};

TEST_F(Failure, WithoutDescriptorsAreRefusedAndAbortNothing) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "UBSan, which this build has, looks at objects through a pipe: it needs descriptors itself";
#endif
  const std::string text = toml({"memory", "file"});
  open(text);
  const kvpool_consumer_options options{.struct_size = sizeof options, .name = nullptr, .region_bytes = 4096};
  kvpool_consumer* consumer = nullptr;
  {
    const DescriptorLimit none(0);
    EXPECT_EQ(kvpool_consumer_open(pool_, &options, &consumer, &error_), KVPOOL_SYSTEM);
    EXPECT_NE(message().find("ulimit -n"), std::string::npos) << message();
  }
  ASSERT_EQ(kvpool_consumer_open(pool_, &options, &consumer, &error_), KVPOOL_OK) << message();
  EXPECT_EQ(kvpool_consumer_close(consumer, 1'000'000, &error_), KVPOOL_OK);
  close();
  rlim_t more = 0;
  for (; more < 32; ++more) {
    const DescriptorLimit few(more);
    if (try_open(text, &pool_) == KVPOOL_OK) break;
    EXPECT_FALSE(message().empty()) << more;
  }
  EXPECT_GT(more, 3U) << "it takes some";
  EXPECT_LT(more, 32U);
}

TEST_F(Failure, RequestsOfNonsenseAreRefused) {
  open(toml({"memory"}));
  const Shape shape = make({});
  Client client(pool_);
  const Batch batch = client.batch(shape, {.blocks = 2});
  const kvpool_request good = Client::request(shape, batch);
  kvpool_ticket ticket = 0;
  kvpool_request request = good;
  request.flags = 8;
  EXPECT_EQ(kvpool_match(client.handle(), &request, &ticket), KVPOOL_INVALID_ARGUMENT);
  request.flags = KVPOOL_IN_PLACE;  // of a retrieve alone
  EXPECT_EQ(kvpool_match(client.handle(), &request, &ticket), KVPOOL_INVALID_ARGUMENT);
  request = good;
  request.ns = 1 << 16;
  EXPECT_EQ(kvpool_match(client.handle(), &request, &ticket), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(kvpool_match(client.handle(), &good, nullptr), KVPOOL_INVALID_ARGUMENT);
  request = good;
  request.ns = 7;
  EXPECT_EQ(client.run(kvpool_match, request).status(), KVPOOL_INVALID_ARGUMENT);
  request = good;
  request.blocks = 0;
  EXPECT_EQ(client.run(kvpool_store, request).status(), KVPOOL_INVALID_ARGUMENT);
  request = good;
  request.blocks = UINT32_MAX;
  EXPECT_EQ(client.run(kvpool_retrieve, request).status(), KVPOOL_TOO_LARGE);
  request = good;
  const auto tail = client.allocate(client.free_bytes() / page_bytes * page_bytes);
  request.buffers = reinterpret_cast<const uint64_t*>(tail.data() + tail.size() - 8);  // room for one address
  EXPECT_EQ(client.run(kvpool_store, request).status(), KVPOOL_INVALID_ARGUMENT);
  request = Client::pinned(0xdead'beef'0000'0001, 0, 1);
  request.buffers = batch.addresses.data();
  for (const Call call : {kvpool_retrieve, kvpool_stage, kvpool_estimate, kvpool_unpin}) {
    EXPECT_EQ(client.run(call, request).status(), KVPOOL_INVALID_ARGUMENT);
  }
  EXPECT_EQ(kvpool_cancel(client.handle(), 12345), KVPOOL_OK);
  EXPECT_GT(stats().invalid_requests, 0U);
}

TEST_F(Failure, ADeadlineEndsARetrieveAndTheReleaseComesLater) {
  open(toml({"file"}, {}, slow));
  const Shape shape = make(large);
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 2).status(), KVPOOL_OK);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 2});
  kvpool_request request = Client::request(shape, batch);
  request.timeout_us = 300'000;  // of two seconds of reading
  const auto begin = steady_clock::now();
  const kvpool_ticket ticket = client.send(kvpool_retrieve, request);
  const Ends result = client.wait_result(ticket);
  EXPECT_EQ(result.status(), KVPOOL_TIMED_OUT);
  EXPECT_GE(steady_clock::now() - begin, std::chrono::milliseconds(300));
  EXPECT_LT(steady_clock::now() - begin, std::chrono::milliseconds(1500));
  EXPECT_LT(result.result.segments, 4U);
  for (uint32_t column = 0; column < result.result.segments; ++column) {
    for (uint32_t block = 0; block < result.result.blocks; ++block) EXPECT_TRUE(batch.holds(block, column));
  }
  EXPECT_EQ(result.releases, 0U) << "the device is still writing to the buffers";
  EXPECT_EQ(client.finish(ticket).releases, 1U);
  EXPECT_EQ(stats().timed_out_requests, 1U);
  EXPECT_EQ(stats().tickets_under_way, 0U);
}

TEST_F(Failure, ACancelEndsARequestWithBothCompletions) {
  open(toml({"file"}, {}, slow));
  const Shape shape = make(large);
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 1).status(), KVPOOL_OK);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 1});
  const kvpool_ticket ticket = client.send(kvpool_retrieve, Client::request(shape, batch));
  const kvpool_ticket other = client.send(kvpool_match, Client::request(shape, batch));
  EXPECT_EQ(kvpool_cancel(client.handle(), ticket), KVPOOL_OK);
  EXPECT_EQ(kvpool_cancel(client.handle(), ticket), KVPOOL_OK);
  EXPECT_EQ(client.finish(ticket).status(), KVPOOL_CANCELLED);
  EXPECT_EQ(client.finish(other).status(), KVPOOL_OK);
  EXPECT_EQ(kvpool_cancel(client.handle(), ticket), KVPOOL_OK) << "it has ended already";
  EXPECT_EQ(stats().cancelled_requests, 1U);
}

TEST_F(Failure, ClosingUnderLoadSaysWhatIsOutstandingAndMayBeRepeated) {
  open(toml({"file"}, {}, slow));
  const Shape shape = make(large);
  Client client(pool_);
  Client idle(pool_);
  ASSERT_EQ(store(client, shape, 1, 1).status(), KVPOOL_OK);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 1});
  const kvpool_ticket ticket = client.send(kvpool_retrieve, Client::request(shape, batch));
  // Once a layer is there, the device has the next ones.
  while (kvpool_progress(client.handle(), ticket) == 0) kvpool_wait(client.handle(), 10'000);
  EXPECT_EQ(kvpool_consumer_close(client.handle(), 0, &error_), KVPOOL_TIMED_OUT);
  EXPECT_NE(message().find("'file'"), std::string::npos) << message();
  EXPECT_EQ(kvpool_close(pool_, 1000, &error_), KVPOOL_TIMED_OUT);
  EXPECT_NE(message().find("retrieve"), std::string::npos) << message();
  close();
  client.forget();
  idle.forget();
}

TEST_F(Failure, MoreRequestsThanSlotsAreBusyAndTheRestGoOn) {
  open(toml({"memory"}));
  const Shape shape = make({});
  Client client(pool_);
  const Batch batch = client.batch(shape, {.blocks = 1});
  kvpool_request request = Client::request(shape, batch);
  std::vector<kvpool_ticket> tickets;
  kvpool_status status = KVPOOL_OK;
  while (status == KVPOOL_OK && tickets.size() < 1000) {
    kvpool_ticket ticket = 0;
    status = kvpool_match(client.handle(), &request, &ticket);
    if (status == KVPOOL_OK) tickets.push_back(ticket);
  }
  EXPECT_EQ(status, KVPOOL_BUSY);
  EXPECT_EQ(tickets.size(), 256U);
  EXPECT_EQ(std::set(tickets.begin(), tickets.end()).size(), 256U);
  EXPECT_EQ(std::ranges::count(tickets, 0U), 0);
  uint32_t ended = 0;
  std::array<kvpool_completion, 7> taken{};
  while (ended < 512) {
    const uint32_t count = kvpool_poll(client.handle(), taken.data(), taken.size());
    ended += count;
    if (count == 0) kvpool_wait(client.handle(), 100'000);
  }
  EXPECT_EQ(client.run(kvpool_match, request).status(), KVPOOL_MISS);
}

TEST_F(Failure, MoreTicketsOrPinsThanTheLimitAreBusy) {
  open(toml({"file"}, "tickets = 2\npins = 2", slow));
  const Shape shape = make(large);
  Client client(pool_, 8 << 20);
  ASSERT_EQ(store(client, shape, 1, 1).status(), KVPOOL_OK);
  client.reuse();
  std::vector<kvpool_ticket> tickets;
  for (int i = 0; i < 3; ++i) {
    const Batch batch = client.batch(shape, {.blocks = 1});
    tickets.push_back(client.send(kvpool_retrieve, Client::request(shape, batch)));
  }
  const Ends busy = client.finish(tickets[2]);
  EXPECT_EQ(busy.status(), KVPOOL_BUSY);
  EXPECT_EQ(busy.result.blocks, 0U);
  const Batch batch = client.batch(shape, {.blocks = 1});
  const kvpool_pin first = client.pin(shape, batch);
  const kvpool_pin second = client.pin(shape, batch);
  EXPECT_NE(first, second);
  kvpool_request request = Client::request(shape, batch);
  request.flags = KVPOOL_PIN;
  EXPECT_EQ(client.run(kvpool_match, request).status(), KVPOOL_BUSY);
  // Busy is the one answer after which a pin that was given along is still there.
  kvpool_request redeem = Client::pinned(first, 0, 1);
  redeem.buffers = batch.addresses.data();
  redeem.flags = KVPOOL_TAKE_PIN;
  EXPECT_EQ(client.run(kvpool_retrieve, redeem).status(), KVPOOL_BUSY);
  EXPECT_EQ(client.run(kvpool_unpin, Client::pinned(first, 0, 0)).status(), KVPOOL_OK);
  EXPECT_EQ(stats().busy_requests, 3U);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(kvpool_cancel(client.handle(), tickets[static_cast<size_t>(i)]), KVPOOL_OK);
    client.finish(tickets[static_cast<size_t>(i)]);
  }
}

// Flips one bit of a stored segment in the pool's file, wherever it lies.
void spoil(const std::string& path, const kvpool_key& key, uint32_t segment, uint32_t bytes) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(descriptor, 0);
  std::vector<std::byte> wanted(bytes);
  fill_segment(wanted, key, segment);
  std::vector<std::byte> seen(bytes);
  bool found = false;
  const auto size = static_cast<off_t>(std::filesystem::file_size(path));
  for (off_t at = 1 << 20; !found && at + static_cast<off_t>(bytes) <= size; at += page_bytes) {
    ASSERT_EQ(pread(descriptor, seen.data(), 64, at), 64);
    if (!std::equal(seen.begin(), seen.begin() + 64, wanted.begin())) continue;
    ASSERT_EQ(pread(descriptor, seen.data(), bytes, at), static_cast<ssize_t>(bytes));
    found = seen == wanted;
    const std::byte flipped = seen[bytes / 2] ^ std::byte{1};
    if (found) {
      ASSERT_EQ(pwrite(descriptor, &flipped, 1, at + bytes / 2), 1);
    }
  }
  EXPECT_EQ(fsync(descriptor), 0);
  ::close(descriptor);
  EXPECT_TRUE(found) << "the segment's bytes are not in the file";
}

TEST_F(Failure, BytesThatChangedOnTheDiskAreAMiss) {
  open(toml({"file"}));
  const Shape shape = make({});
  Client client(pool_);
  for (const uint32_t misalign : {0U, 9U}) {
    const uint64_t first_key = 1 + misalign;
    ASSERT_EQ(store(client, shape, 100 * first_key, 8).status(), KVPOOL_OK);
    client.reuse();
    const Batch batch =
        client.batch(shape, {.first_key = 100 * first_key, .blocks = 8, .misalign_bytes = misalign});
    spoil(file_path(), batch.keys[5], 2, shape.segment_bytes[2]);
    const uint64_t before = stats().checksum_errors;
    const Ends ends = client.run(kvpool_retrieve, Client::request(shape, batch));
    EXPECT_EQ(ends.status(), KVPOOL_MISS);
    EXPECT_EQ(ends.result.blocks, 5U);
    EXPECT_EQ(ends.result.segments, 4U);
    EXPECT_TRUE(batch.holds(5));
    EXPECT_EQ(stats().checksum_errors, before + 2);  // it was read twice
    EXPECT_EQ(client.run(kvpool_match, Client::request(shape, batch)).result.blocks, 5U);
    EXPECT_EQ(store(client, shape, 100 * first_key, 8).result.blocks, 8U);
    client.reuse();
    const Batch again = client.batch(shape, {.first_key = 100 * first_key, .blocks = 8});
    EXPECT_EQ(client.run(kvpool_retrieve, Client::request(shape, again)).status(), KVPOOL_OK);
    EXPECT_TRUE(again.holds(8));
  }
}

TEST_F(Failure, StagingBytesThatChangedIsAMissToo) {
  open(toml({"memory", "file"}));
  const Shape shape = make({.name = "flat", .segment_bytes = std::vector<uint32_t>(8, 8192), .flat = true});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 4).status(), KVPOOL_OK);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 4});
  const kvpool_pin pin = client.pin(shape, batch);
  std::string bytes = read_file();
  uint32_t segment = 0;  // one that lies in the file
  std::vector<std::byte> wanted(8192);
  for (; segment < 8; ++segment) {
    fill_segment(wanted, batch.keys[2], segment);
    if (bytes.find(std::string(reinterpret_cast<const char*>(wanted.data()), 64)) != std::string::npos) break;
  }
  ASSERT_LT(segment, 8U);
  spoil(file_path(), batch.keys[2], segment, 8192);
  const Ends staged = client.run(kvpool_stage, Client::pinned(pin, 0, 4));
  EXPECT_EQ(staged.status(), KVPOOL_MISS);
  EXPECT_EQ(staged.result.blocks, 2U);
  EXPECT_EQ(stats().checksum_errors, 2U);  // it was read twice
  const Ends ends = client.run(kvpool_retrieve, Client::request(shape, batch));
  EXPECT_EQ(ends.result.blocks, 2U);
  EXPECT_TRUE(batch.holds(2));
  EXPECT_EQ(client.run(kvpool_unpin, Client::pinned(pin, 0, 0)).status(), KVPOOL_OK);
}

TEST_F(Failure, AnEventLoopIsWokenForEveryCompletion) {
  open(toml({"memory"}));
  const Shape shape = make({});
  Client client(pool_);
  const Batch batch = client.batch(shape, {.blocks = 1});
  const int loop = epoll_create1(EPOLL_CLOEXEC);
  ASSERT_GE(loop, 0);
  epoll_event event{.events = EPOLLIN, .data = {}};
  ASSERT_EQ(epoll_ctl(loop, EPOLL_CTL_ADD, kvpool_event_fd(client.handle()), &event), 0);
  for (int i = 0; i < 300; ++i) {
    const kvpool_ticket ticket = client.send(kvpool_match, Client::request(shape, batch));
    while (client.ends(ticket).releases == 0) {
      if (client.poll() > 0) continue;
      if (kvpool_arm(client.handle()) == 0) continue;
      ASSERT_EQ(epoll_wait(loop, &event, 1, 10'000), 1) << "a completion came and nobody said so";
    }
  }
  // Nothing is under way: armed, and silent.
  ASSERT_EQ(client.poll(), 0U);
  ASSERT_EQ(kvpool_arm(client.handle()), 1);
  EXPECT_EQ(epoll_wait(loop, &event, 1, 0), 0);
  // Armed twice, woken all the same.
  ASSERT_EQ(kvpool_arm(client.handle()), 1);
  const kvpool_ticket ticket = client.send(kvpool_match, Client::request(shape, batch));
  EXPECT_EQ(epoll_wait(loop, &event, 1, 10'000), 1);
  client.finish(ticket);
  ::close(loop);
}

}  // namespace
}  // namespace kvpool::api_test
