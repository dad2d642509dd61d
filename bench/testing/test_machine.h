// TestMachine: devices in ordinary memory for tests of what is built on Machine. Storage devices copy between
// their memory and the request's buffer when they are polled; pools are those of fake_pool.h.
//
// Thread: one. Failure: only what the tests set.

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "bench/machine.h"

namespace kvpool::bench {

[[nodiscard]] DeviceConfig memory_config(uint64_t size_bytes);
[[nodiscard]] DeviceConfig file_config(uint64_t size_bytes, std::string path);

// A storage device of plain memory.
class RamStorage final : public Device {
 public:
  RamStorage(std::string name, uint64_t size_bytes, uint32_t queue_depth);
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] DeviceLimits limits() const override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] Nanos next_event_time() const override { return waiting_.empty() ? never : Nanos{0}; }

  uint64_t fail_every = 0;     // every so many-th request ends with io_error; 0: never
  uint64_t short_every = 0;    // every so many-th request moves a page less
  uint64_t corrupt_every = 0;  // every so many-th read has one flipped bit in the middle of its first page

 private:
  std::string name_;
  std::vector<std::byte> memory_;
  uint32_t queue_depth_;
  std::deque<IoRequest> waiting_;
  uint64_t requests_ = 0;
};

class TestMachine final : public Machine {
 public:
  [[nodiscard]] Result<OpenedDevices> open_devices(const Config& config, const DeviceHooks& hooks) override;
  [[nodiscard]] Result<kvpool_pool*> open_pool(const Config& config, const Profile& profile,
                                               const DeviceHooks& hooks) override;

  uint64_t corrupt_every = 0;  // of the next storage devices
  uint64_t fail_every = 0;
  uint64_t short_every = 0;
  std::string in_use;  // the path of a device that somebody else has
  uint32_t pools_opened = 0;
  Config last_pool;
  std::vector<std::unique_ptr<Device>> pool_storage;  // what the hooks made for the pools

 private:
  // Of passthrough devices that are open: the paths.
  std::shared_ptr<std::set<std::string>> locked_ = std::make_shared<std::set<std::string>>();
  SteadyClock clock_;
};

// A new empty folder under the system's temporary one, removed with all that is in it.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  [[nodiscard]] std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace kvpool::bench
