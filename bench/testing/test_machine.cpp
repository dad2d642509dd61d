#include "bench/testing/test_machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/assert.h"
#include "io/cap_device.h"
#include "io/memory/memory_device.h"
#include "xfer/host/host_transfer.h"

namespace kvpool::bench {
namespace {

// Mapped, so that what a test does not touch takes nothing.
class Mapping {
 public:
  explicit Mapping(uint64_t bytes)
      : bytes_(bytes),
        base_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                   0)) {
    KVPOOL_ASSERT(base_ != MAP_FAILED);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(base_, bytes_); }
  [[nodiscard]] std::span<std::byte> span() const { return {static_cast<std::byte*>(base_), bytes_}; }

 private:
  uint64_t bytes_;
  void* base_;
};

// The paths of passthrough devices that this one has locked are free again when it goes.
struct Owner {
  Owner(uint64_t bytes, std::shared_ptr<std::set<std::string>> all_locked)
      : mapping(bytes), locked(std::move(all_locked)) {}
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;
  ~Owner() {
    for (const std::string& path : own) locked->erase(path);
  }
  Mapping mapping;
  std::vector<std::unique_ptr<Device>> devices;
  std::shared_ptr<std::set<std::string>> locked;
  std::vector<std::string> own;
};

bool is_due(uint64_t every, uint64_t count) { return every != 0 && count % every == 0; }

}  // namespace

DeviceConfig memory_config(uint64_t size_bytes) {
  DeviceConfig device;
  device.name = "memory0";
  device.size_bytes = size_bytes;
  return device;
}

DeviceConfig file_config(uint64_t size_bytes, std::string path) {
  DeviceConfig device;
  device.name = "file0";
  device.kind = DeviceKind::file;
  device.size_bytes = size_bytes;
  device.path = std::move(path);
  return device;
}

RamStorage::RamStorage(std::string name, uint64_t size_bytes, uint32_t queue_depth)
    : name_(std::move(name)), memory_(size_bytes), queue_depth_(queue_depth) {}

DeviceLimits RamStorage::limits() const {
  return {.size_bytes = memory_.size(),
          .alignment_bytes = 4096,
          .transfer_bytes_max = 8U << 20,
          .queue_depth_max = queue_depth_,
          .in_place = false,
          .storage = true};
}

bool RamStorage::submit(const IoRequest& request) {
  if (waiting_.size() == queue_depth_) return false;
  KVPOOL_ASSERT(request.offset.value + request.length_bytes <= memory_.size());
  waiting_.push_back(request);
  return true;
}

size_t RamStorage::poll(std::span<IoCompletion> out) {
  const size_t count = std::min(out.size(), waiting_.size());
  for (size_t i = 0; i < count; ++i) {
    const IoRequest request = waiting_.front();
    waiting_.pop_front();
    ++requests_;
    out[i] = {.tag = request.tag, .bytes = request.length_bytes};
    if (is_due(fail_every, requests_)) {
      out[i].code = Errc::io_error;
      continue;
    }
    if (is_due(short_every, requests_)) out[i].bytes -= 4096;
    std::byte* const own = memory_.data() + request.offset.value;
    if (request.kind == IoKind::write) {
      std::memcpy(own, request.buffer, request.length_bytes);
      continue;
    }
    std::memcpy(request.buffer, own, request.length_bytes);
    if (is_due(corrupt_every, requests_)) request.buffer[2000] ^= std::byte{1};
  }
  return count;
}

Result<OpenedDevices> TestMachine::open_devices(const Config& config, const DeviceHooks& hooks) {
  uint64_t bytes = config.buffer_bytes;
  for (const DeviceConfig& device : config.devices)
    bytes += device.kind == DeviceKind::memory ? device.size_bytes : 0;
  bytes = std::max<uint64_t>(bytes, 4096);  // of which a mapping is made even where nobody wants any
  const auto owner = std::make_shared<Owner>(bytes, locked_);
  const Mapping* const mapping = &owner->mapping;
  OpenedDevices opened;
  opened.owner = owner;
  opened.regions = {mapping->span()};
  opened.buffers = mapping->span().first(config.buffer_bytes);
  uint64_t offset = config.buffer_bytes;
  for (const DeviceConfig& device : config.devices) {
    if (is_passthrough(device.kind)) {
      if (!locked_->insert(device.path).second) return fail(Errc::in_use, device.path + " is in use");
      owner->own.push_back(device.path);
    }
    if (!in_use.empty() && device.path == in_use && !hooks.make_storage) {
      return fail(Errc::in_use, device.path + " is in use");
    }
    std::unique_ptr<Device> made;
    if (device.kind == DeviceKind::memory) {
      made = std::make_unique<MemoryDevice>(device.name, mapping->span().subspan(offset, device.size_bytes));
      offset += device.size_bytes;
    } else if (hooks.make_storage) {
      auto hooked = hooks.make_storage(device);
      if (!hooked) return tl::unexpected(hooked.error());
      made = std::move(*hooked);
    } else {
      auto storage = std::make_unique<RamStorage>(device.name, device.size_bytes, device.queue_depth);
      storage->fail_every = fail_every;
      storage->short_every = short_every;
      storage->corrupt_every = corrupt_every;
      made = std::move(storage);
    }
    if (device.limit_read_bytes_per_second) {
      made = std::make_unique<CapDevice>(
          std::move(made),
          CapOptions{device.limit_read_bytes_per_second, device.limit_write_bytes_per_second}, clock_);
    }
    if (hooks.decorate) made = hooks.decorate(std::move(made));
    opened.devices.push_back(made.get());
    owner->devices.push_back(std::move(made));
  }
  opened.transfer = std::make_unique<HostTransfer>(2);
  if (hooks.decorate_transfer) opened.transfer = hooks.decorate_transfer(std::move(opened.transfer));
  return opened;
}

Result<kvpool_pool*> TestMachine::open_pool(const Config& config, const Profile&, const DeviceHooks& hooks) {
  ++pools_opened;
  last_pool = config;
  pool_storage.clear();
  for (const DeviceConfig& device : config.devices) {
    if (locked_->contains(device.path)) return fail(Errc::in_use, device.path + " is in use");
  }
  for (const DeviceConfig& device : config.devices) {
    if (device.kind == DeviceKind::memory || !hooks.make_storage) continue;
    auto hooked = hooks.make_storage(device);
    if (!hooked) return tl::unexpected(hooked.error());
    pool_storage.push_back(std::move(*hooked));
  }
  kvpool_options options{};
  options.struct_size = sizeof options;
  options.config_toml = "";
  kvpool_pool* pool = nullptr;
  kvpool_error error{};
  if (kvpool_open(&options, &pool, &error) != KVPOOL_OK) return fail(Errc::system, error.message);
  return pool;
}

TestFolder::TestFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "kvpool-bench-XXXXXX").string();
  KVPOOL_ASSERT(mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace kvpool::bench
