// SpdkDouble: drives in memory behind the functions of SPDK's that kvpool calls, with faults on order. It is
// no SPDK: it keeps to what kvpool relies on, so that the plug-in's own logic is tested where SPDK is not.
//
// Threads: the functions as SPDK's (a queue pair is its owner's); the knobs on any thread.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvpool::spdk_double {

struct DriveOptions {
  uint64_t size_bytes = 96ULL << 20;  // more than is read to find it blank
  uint32_t block_bytes = 4096;
  uint32_t metadata_bytes = 0;
  uint32_t transfer_bytes_max = 256U << 10;
  uint16_t queue_entries_max = 1024;
  bool any_memory = false;  // false: commands on memory that was not registered fail
};

// At `address`, the value of traddr. Replaces what was there.
void add_drive(const std::string& address, const DriveOptions& options);
void forget_drives();
[[nodiscard]] std::vector<std::byte>& bytes_of(const std::string& address);

// Whether the machine has one; at first it has not.
void set_iommu(bool on);
void fail_next(const std::string& address, uint32_t commands);
// Commands get no answer, and nobody can attach.
void fall_silent(const std::string& address);
// The connection breaks: polling says so, and nobody can attach.
void break_connection(const std::string& address);
void come_back(const std::string& address, bool empty);
// The controller tells that its namespaces have changed.
void change_namespaces(const std::string& address);

// Over all drives. What was attached or allocated and is not detached or freed; calls out of SPDK's order.
struct Counts {
  uint32_t controllers = 0;
  uint32_t queue_pairs = 0;
  uint32_t registered_regions = 0;
  uint32_t env_inits = 0;
  uint32_t resets = 0;
  uint32_t largest_command_bytes = 0;
  uint32_t commands_over_size = 0;
  uint32_t freed_before_failing = 0;  // queue pairs of a silent controller that was not failed first
};
[[nodiscard]] Counts counts();

}  // namespace kvpool::spdk_double
