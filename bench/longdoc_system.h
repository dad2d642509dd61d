// System: one way of keeping documents and bringing them back, as `bench longdoc` compares them.
//
// Thread: one, the benchmark's; a system may have threads of its own. Failure: Result; one that failed is
// destroyed, nothing else.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "bench/documents.h"
#include "bench/machine.h"
#include "bench/meter_transfer.h"

namespace kvpool::bench {

// What was asked at once: the questions of one repeat.
struct Asked {
  Nanos begin{0};  // of SteadyClock
  Nanos wall{0};
  std::vector<Nanos> latencies;  // of each question: from its start until its last segment was checked
  uint64_t bytes = 0;            // delivered
  uint64_t wrong_blocks = 0;
};

// Since the system was opened; differences are taken around a repeat.
struct SystemUse {
  struct OneDevice {
    std::string name;
    bool in_place = false;
    uint64_t read_bytes = 0;
    Nanos busy{0};
    Nanos under_way{0};  // of all requests added up
  };
  std::vector<OneDevice> devices;
  // In which a storage device had something to do: a request of this process, or over files, behind the page
  // cache, by the kernel's count for their disk. None: it is not known.
  std::optional<Nanos> storage_busy;
};

class System {
 public:
  System() = default;
  System(const System&) = delete;
  System& operator=(const System&) = delete;
  virtual ~System() = default;

  [[nodiscard]] virtual Status store() = 0;
  // Drops what the kernel keeps of the documents. `again`: the next questions ask for some document twice, so
  // what is read must be dropped as it is read.
  [[nodiscard]] virtual Status make_cold(bool again) = 0;
  // order[i] is the document of question i; `concurrency` of them are under way at a time.
  [[nodiscard]] virtual Result<Asked> ask(std::span<const uint32_t> order, uint32_t concurrency,
                                          Check check) = 0;
  [[nodiscard]] virtual SystemUse use() const = 0;
  // Of its devices, in the order of use().
  [[nodiscard]] virtual const Meters& meters() const = 0;
  // Of each device; empty where nothing is planned.
  [[nodiscard]] virtual std::vector<double> planned_shares() const = 0;
  [[nodiscard]] virtual uint64_t spilled_bytes() const = 0;
};

// What a system's storage part goes through: buffered chunk files in place of the configuration's devices,
// those devices themselves, or the ones among them that are read by passthrough.
enum class StoragePath : uint8_t { files, direct, passthrough };

// One row of the comparison.
struct SystemKind {
  std::string_view name;
  bool pooled;  // kvpool's engine; else one tier after the other
  StoragePath path;
  std::optional<PlacementRule> placement;  // of pooled ones; none: the configuration's
};
[[nodiscard]] std::span<const SystemKind> system_kinds();

class FilesStorage;
// What a system has used. files: those that stand in for its storage devices; null: it has these themselves.
[[nodiscard]] SystemUse use_of(const Meters& meters, const FilesStorage* files);

// Whether such systems use such devices: passthrough systems the memory and the passthrough devices, the
// others all but these.
[[nodiscard]] constexpr bool uses(StoragePath path, DeviceKind kind) {
  return kind == DeviceKind::memory || is_passthrough(kind) == (path == StoragePath::passthrough);
}
// Why such systems cannot run over this configuration; empty: they can.
[[nodiscard]] std::string why_left_out(StoragePath path, const Config& config);

// Bytes of recycled buffers that a consumer gets for these documents, the same for each system: enough for
// the devices' queues to stay full while finished parts are looked at, a few blocks at least.
[[nodiscard]] uint64_t consumer_buffer_bytes(const Documents& documents);

// Opens the system over the configuration's devices. REQUIRES: documents and machine outlive it; all of the
// devices are such as it uses.
[[nodiscard]] Result<std::unique_ptr<System>> open_system(const SystemKind& kind, Machine& machine,
                                                          const Config& config, const Profile& profile,
                                                          const Documents& documents);

}  // namespace kvpool::bench
