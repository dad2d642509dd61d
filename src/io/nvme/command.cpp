#include "io/nvme/command.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/assert.h"

namespace kvpool {
namespace {

// The kernel's own deadline, after which it aborts the command and resets the controller.
constexpr uint32_t timeout_ms = 30'000;

constexpr std::array<std::string_view, 4> status_types = {"generic", "command", "media", "path"};

// Those that a read or a write meets.
constexpr std::array<std::pair<uint32_t, std::string_view>, 24> statuses = {{
    {0x001, "invalid opcode"},
    {0x002, "invalid field"},
    {0x004, "data transfer error"},
    {0x005, "aborted, power loss"},
    {0x006, "internal error"},
    {0x007, "aborted on request"},
    {0x008, "aborted, its queue was deleted"},
    {0x00b, "invalid namespace or format"},
    {0x013, "invalid PRP offset"},
    {0x020, "namespace is write protected"},
    {0x080, "block out of range"},
    {0x081, "capacity exceeded"},
    {0x082, "namespace not ready"},
    {0x084, "format in progress"},
    {0x180, "conflicting attributes"},
    {0x182, "write to a read-only range"},
    {0x280, "write fault"},
    {0x281, "unrecovered read error"},
    {0x282, "end-to-end guard check"},
    {0x285, "compare failure"},
    {0x286, "access denied"},
    {0x287, "deallocated or unwritten block"},
    {0x370, "host pathing error"},
    {0x371, "command aborted by the host"},
}};

}  // namespace

nvme_uring_cmd nvme_command(IoKind kind, uint32_t namespace_id, uint64_t first_block, uint32_t length_bytes,
                            uint32_t block_bytes, const std::byte* buffer) {
  const uint32_t blocks = length_bytes / block_bytes;
  KVPOOL_ASSERT(length_bytes % block_bytes == 0 && blocks > 0 && blocks <= 1U << 16);
  nvme_uring_cmd command{};
  command.opcode = kind == IoKind::read ? nvme_opcode_read : nvme_opcode_write;
  command.nsid = namespace_id;
  command.addr = reinterpret_cast<uintptr_t>(buffer);
  command.data_len = length_bytes;
  command.cdw10 = static_cast<uint32_t>(first_block);
  command.cdw11 = static_cast<uint32_t>(first_block >> 32);
  command.cdw12 = blocks - 1;
  command.timeout_ms = timeout_ms;
  return command;
}

nvme_uring_cmd nvme_discard_command(uint32_t namespace_id, std::span<const NvmeRange> ranges) {
  constexpr size_t ranges_max = 256;
  constexpr uint32_t deallocate = 1U << 2;
  KVPOOL_ASSERT(!ranges.empty() && ranges.size() <= ranges_max);
  nvme_uring_cmd command{};
  command.opcode = nvme_opcode_dataset_management;
  command.nsid = namespace_id;
  command.addr = reinterpret_cast<uintptr_t>(ranges.data());
  command.data_len = static_cast<uint32_t>(ranges.size_bytes());
  command.cdw10 = static_cast<uint32_t>(ranges.size() - 1);
  command.cdw11 = deallocate;
  command.timeout_ms = timeout_ms;
  return command;
}

std::string nvme_status_text(uint32_t status) {
  const uint32_t code = status & 0x7ff;  // type and code; what is above says whether to retry
  const uint32_t type = code >> 8;
  const auto known = std::ranges::find(statuses, code, &std::pair<uint32_t, std::string_view>::first);
  return fmt::format("NVMe status {:#05x} ({}{}{})", code,
                     type < status_types.size() ? status_types[type] : "vendor",
                     known == statuses.end() ? "" : ": ", known == statuses.end() ? "" : known->second);
}

}  // namespace kvpool
