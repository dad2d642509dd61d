#include "io/nvme/identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace kvpool {
namespace {

using Page = std::span<const std::byte, nvme_identify_bytes>;

static_assert(std::endian::native == std::endian::little, "what a drive says is little-endian");

template <class T>
T number_at(Page page, size_t offset) {
  T value;
  std::memcpy(&value, page.data() + offset, sizeof value);
  return value;
}

// Padded with spaces, and by some with zeros; anything that is not printable would hurt a terminal.
std::string text_at(Page page, size_t offset, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    const auto c = static_cast<char>(page[offset + i]);
    text += c >= ' ' && c <= '~' ? c : ' ';
  }
  const size_t first = text.find_first_not_of(' ');
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

constexpr size_t controller_serial = 4;
constexpr size_t controller_model = 24;
constexpr size_t controller_firmware = 64;
constexpr size_t controller_mdts = 77;
constexpr size_t controller_optional_commands = 520;  // ONCS
constexpr uint16_t has_dataset_management = 1U << 2;
constexpr size_t nvm_ranges = 3;          // DMRL: ranges of one command
constexpr size_t nvm_range_blocks = 4;    // DMRSL: blocks of one range
constexpr size_t nvm_command_blocks = 8;  // DMSL: blocks of one command
constexpr size_t namespace_blocks = 0;
constexpr size_t namespace_formats = 25;  // their number less one
constexpr size_t namespace_format = 26;   // the one in use
constexpr size_t namespace_protection = 29;
constexpr size_t namespace_format_list = 128;
constexpr uint32_t formats_max = 64;
// MDTS counts in the controller's smallest page, which is 4 KiB on everything that Linux drives.
constexpr uint32_t page_shift = 12;

}  // namespace

Result<NvmeIdentity> parse_nvme_identity(Page controller, Page ns, const std::string& path) {
  NvmeIdentity identity{.model = text_at(controller, controller_model, 40),
                        .serial = text_at(controller, controller_serial, 20),
                        .firmware = text_at(controller, controller_firmware, 8)};
  const auto unsupported = [&](std::string_view why) {
    return fail(
        Errc::unsupported,
        fmt::format("{}: {}; give it a plain format of 512 or 4096 bytes (nvme format, which erases it) "
                    "or use another drive",
                    path, why));
  };
  const auto in_use = static_cast<uint8_t>(ns[namespace_format]);
  // Four bits, and two more in bits 5 and 6 where there are over 16 formats.
  const uint32_t format = (in_use & 0xfU) | (static_cast<uint32_t>(in_use >> 5 & 3) << 4);
  if (format >= formats_max || format > static_cast<uint8_t>(ns[namespace_formats])) {
    return unsupported(fmt::format("its block format {} is not in its own list", format));
  }
  const size_t entry = namespace_format_list + format * 4;
  const auto metadata_bytes = number_at<uint16_t>(ns, entry);
  const auto shift = static_cast<uint8_t>(ns[entry + 2]);
  if (metadata_bytes != 0) {
    return unsupported(fmt::format("its blocks carry {} bytes of metadata each", metadata_bytes));
  }
  if ((static_cast<uint8_t>(ns[namespace_protection]) & 7) != 0) {
    return unsupported("it is formatted with protection information");
  }
  if (shift < 9 || shift > 16) return unsupported(fmt::format("its blocks are of 2^{} bytes", shift));
  identity.block_bytes = 1U << shift;
  const auto blocks = number_at<uint64_t>(ns, namespace_blocks);
  if (blocks == 0 || blocks > (UINT64_MAX >> 1) >> shift) {
    return unsupported(fmt::format("it says that it has {} blocks", blocks));
  }
  identity.size_bytes = blocks << shift;
  const auto mdts = static_cast<uint8_t>(controller[controller_mdts]);
  identity.transfer_bytes_max = mdts == 0 || mdts > 31 - page_shift ? UINT32_MAX : 1U << (mdts + page_shift);
  identity.discards =
      (number_at<uint16_t>(controller, controller_optional_commands) & has_dataset_management) != 0;
  return identity;
}

DiscardLimits parse_nvme_discard_limits(Page page, uint32_t block_bytes) {
  DiscardLimits limits;
  const auto lower = [](uint64_t& limit, uint64_t said, uint64_t unit) {  // 0: no limit
    if (said > 0 && said <= UINT64_MAX / unit) limit = std::min<uint64_t>(limit, said * unit);
  };
  lower(limits.ranges_max, number_at<uint8_t>(page, nvm_ranges), 1);
  lower(limits.range_bytes_max, number_at<uint32_t>(page, nvm_range_blocks), block_bytes);
  lower(limits.command_bytes_max, number_at<uint64_t>(page, nvm_command_blocks), block_bytes);
  return limits;
}

}  // namespace kvpool
