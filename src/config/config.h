// Config: everything a pool is told, parsed, checked, and constant afterwards. The environment is not read
// here. An error names file, line, key, and what is allowed.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "layout/geometry.h"
#include "layout/placement.h"
#include "layout/profile.h"

namespace kvpool {

enum class DeviceKind : uint8_t { memory, file, null, sim, nvme, spdk };
// NVMe commands from user space, without the kernel's block layer and file systems.
[[nodiscard]] constexpr bool is_passthrough(DeviceKind kind) {
  return kind == DeviceKind::nvme || kind == DeviceKind::spdk;
}
// It survives the process, and has a path.
[[nodiscard]] constexpr bool is_storage(DeviceKind kind) {
  return kind == DeviceKind::file || is_passthrough(kind);
}
enum class VerifyRule : uint8_t { storage, always, none };  // none, spelled "never": for measuring only
enum class Residency : uint8_t { exclusive };

struct DeviceConfig {
  std::string name;  // unique; default: kind and number, "memory0"
  DeviceKind kind = DeviceKind::memory;
  uint64_t size_bytes = 0;
  int numa_node = -1;         // memory: -1 is the process's own policy
  std::string path;           // file, or block device; nvme: /dev/ngXnY; spdk: an address (spdk_address.h)
  uint32_t queue_depth = 32;  // requests in flight
  bool discard = false;       // nvme: freed space is deallocated on the drive
  std::optional<uint64_t> limit_read_bytes_per_second;
  std::optional<uint64_t> limit_write_bytes_per_second;
  Nanos io_timeout{std::chrono::seconds(5)};  // spdk: of one command; then the controller is taken to be gone
  uint32_t poll_slack_percent = 4;  // nvme, spdk: how late a completion may be found, of its latency
  // sim and null
  double sim_read_bytes_per_second = 1e9;
  double sim_write_bytes_per_second = 1e9;
  Nanos sim_latency{std::chrono::microseconds(100)};

  friend bool operator==(const DeviceConfig&, const DeviceConfig&) = default;
};

struct NamespaceConfig {
  std::string name;
  Geometry geometry;
  bool flat = false;  // parents are unknown (bare hashes)

  friend bool operator==(const NamespaceConfig&, const NamespaceConfig&) = default;
};

struct LimitsConfig {
  uint32_t consumers = 32;
  uint32_t tickets = 64;  // stores and retrieves under way, over all consumers
  uint32_t pins = 256;
  uint32_t blocks_per_request = 4096;
  uint32_t segments_per_request = 32768;
  uint32_t blocks = 0;                           // in the catalog; 0: as many as the devices can hold
  Nanos deadline{std::chrono::seconds(30)};      // of a request that names none
  Nanos stall_warning{std::chrono::seconds(5)};  // the watchdog names a ticket without progress after this

  friend bool operator==(const LimitsConfig&, const LimitsConfig&) = default;
};

struct Config {
  std::string file;  // where it came from, for messages and the profile beside it
  std::vector<DeviceConfig> devices;
  std::vector<NamespaceConfig> namespaces;
  PlacementRule placement = PlacementRule::bandwidth;
  Residency residency = Residency::exclusive;
  VerifyRule verify = VerifyRule::storage;
  // What the consumer takes at most, where it reads memory in place.
  std::optional<uint64_t> link_bytes_per_second;
  uint64_t staging_bytes = 64ULL << 20;
  uint64_t buffer_bytes = 256ULL << 20;       // arena memory for consumers' regions
  uint32_t transfer_threads = 0;              // 0: chosen from the number of cores
  Nanos spin{std::chrono::microseconds(20)};  // the engine looks for work this long before it sleeps
  std::string profile_path;  // default: the configuration's path with .profile.json behind it
  LimitsConfig limits;

  [[nodiscard]] std::vector<std::string> device_names() const;
  // What a memory device adds that is read in place over such a link, if no cap binds it.
  [[nodiscard]] double in_place_bytes_per_second(uint64_t link_bytes_per_second) const;
  // Names, and what the rates of each depend on; no rates.
  [[nodiscard]] std::vector<DeviceProfile> unmeasured() const;

  friend bool operator==(const Config&, const Config&) = default;
};

// A whole kvpool.toml. All input is validated, before any device is touched. The error has one line for each
// thing that is wrong: "FILE:LINE: key 'device[1].size': what; allowed: what is". Devices and namespaces are
// counted from 0.
[[nodiscard]] Result<Config> parse_config(std::string_view toml_text, const std::string& file_name);
[[nodiscard]] Result<Config> load_config(const std::string& path);

// "memory,size=2GiB" or "file,path=PATH,size=4GiB,limit_read=600MB/s": one --device of a command line.
// The keys and their meaning are those of a [[device]] table. A path may contain '=' but not ','. A device
// without a name keeps an empty one until fill_defaults().
[[nodiscard]] Result<DeviceConfig> parse_device(std::string_view text);

// Names the devices that have no name (kind and number: "file0") and the profile beside the configuration's
// file. parse_config has done it; for configurations made of --device and in code.
void fill_defaults(Config& config);

// What parse_config checks at its end, for configurations built in code.
[[nodiscard]] Status validate(const Config& config);

// As the configuration spells them.
[[nodiscard]] std::string_view to_string(DeviceKind kind);
[[nodiscard]] std::string_view to_string(VerifyRule rule);
[[nodiscard]] std::string_view to_string(Residency residency);
[[nodiscard]] std::string_view to_string(PlacementRule rule);
// "bandwidth", "link", "equal"; "storage", "always", "never".
[[nodiscard]] Result<PlacementRule> parse_placement(std::string_view text);
[[nodiscard]] Result<VerifyRule> parse_verify(std::string_view text);

// The configuration with every default filled in, as TOML that parse_config accepts.
[[nodiscard]] std::string to_toml(const Config& config);

}  // namespace kvpool
