// SpdkPlugin: what the rest of kvpool knows of SPDK. It lives in a shared object of its own,
// libkvpool_spdk.so, which is loaded when a configuration names an `spdk` device and never before, so that
// one kvpool runs on machines with SPDK and without.
//
// Thread: load_spdk() and all methods on any one thread at a time; they block. Failure: a Result whose
// message says what is missing and what to do.
//
// SPDK's environment is of the process and starts once: what the first pool asked for holds until the end.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "io/device.h"
#include "io/memory/memory_source.h"

namespace kvpool {

struct SpdkDeviceOptions {
  std::string name;
  std::string address;  // SPDK's words, without the namespace
  uint32_t namespace_id = 1;
  std::string host_nqn;     // empty: /etc/nvme/hostnqn, or one that SPDK makes up
  uint64_t size_bytes = 0;  // of the data area; a multiple of 4096
  uint32_t queue_depth = 32;
  Nanos io_timeout{std::chrono::seconds(5)};
  double poll_slack = 0.04;  // PollPace
};

struct SpdkEnvironment {
  bool pci = false;               // drives on this machine's PCIe bus
  uint64_t own_memory_bytes = 0;  // that take() will be asked for
};

class SpdkPlugin : public MemorySource {
 public:
  // Starts SPDK's environment, or makes sure that the one that runs will do.
  [[nodiscard]] virtual Status start(const SpdkEnvironment& wanted) = 0;
  // Attaches all controllers at the same time and takes their namespaces for a pool: all, or none and the
  // first error.
  [[nodiscard]] virtual Result<std::vector<std::unique_ptr<Device>>> open(
      std::span<const SpdkDeviceOptions> devices) = 0;
};

// Looks for libkvpool_spdk.so beside this program or library, in ../lib of it, and where the dynamic linker
// looks. Errc::unsupported where it, or SPDK, is not installed.
[[nodiscard]] Result<SpdkPlugin*> load_spdk();

// The one function of the shared object; `version` is that of this header.
inline constexpr uint32_t spdk_plugin_version = 2;
using SpdkPluginEntry = SpdkPlugin* (*)(uint32_t version);

}  // namespace kvpool
