#include "io/pool_header.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string_view>

#include "base/assert.h"
#include "base/checksum.h"

namespace kvpool {
namespace {

constexpr std::array<char, 8> header_magic = {'K', 'V', 'P', 'O', 'O', 'L', '\r', '\n'};
constexpr uint32_t header_version = 1;

uint64_t header_checksum(const PoolHeader& header) {
  return checksum({reinterpret_cast<const std::byte*>(&header), offsetof(PoolHeader, checksum)}, 0);
}

template <size_t size>
void copy_text(std::array<char, size>& field, const std::string& text) {
  std::copy_n(text.begin(), std::min(text.size(), size - 1), field.begin());
}

template <size_t size>
std::string text_of(const std::array<char, size>& field) {
  return {field.begin(), std::find(field.begin(), field.end(), '\0')};
}

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

PoolHeader make_pool_header(uint64_t size_bytes, uint32_t alignment_bytes) {
  PoolHeader header;
  header.magic = header_magic;
  header.version = header_version;
  header.header_bytes = sizeof(PoolHeader);
  const ssize_t drawn = getrandom(header.uuid.data(), header.uuid.size(), 0);
  KVPOOL_ASSERT(drawn == static_cast<ssize_t>(header.uuid.size()));
  header.uuid[6] = static_cast<uint8_t>((header.uuid[6] & 0x0f) | 0x40);
  header.uuid[8] = static_cast<uint8_t>((header.uuid[8] & 0x3f) | 0x80);
  header.size_bytes = size_bytes;
  header.data_offset_bytes = pool_data_offset_bytes;
  header.alignment_bytes = alignment_bytes;
  header.owner_pid = static_cast<uint32_t>(getpid());
  header.created_unix_ns = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                                     std::chrono::system_clock::now().time_since_epoch())
                                                     .count());
  copy_text(header.owner_host, host_name());
  copy_text(header.owner_boot_id, boot_id());
  header.checksum = header_checksum(header);
  return header;
}

Status check_pool_header(const PoolHeader& header, const std::string& path) {
  const auto not_ours = [&](std::string_view why) {
    return fail(Errc::not_ours,
                fmt::format("{}: {}; it was left alone. Give another path, or erase it yourself "
                            "if nobody needs it",
                            path, why));
  };
  if (header.magic != header_magic) return not_ours("holds data that kvpool did not write");
  if (header.checksum != header_checksum(header)) return not_ours("has a damaged kvpool header");
  if (header.version != header_version) {
    return fail(Errc::unsupported,
                fmt::format("{}: was written by another kvpool (format {}, this one has {}); "
                            "it was left alone",
                            path, header.version, header_version));
  }
  if (header.header_bytes != sizeof header || header.data_offset_bytes != pool_data_offset_bytes) {
    return not_ours("has an impossible kvpool header");
  }
  return {};
}

std::string owner_of(const PoolHeader& header) {
  const bool here = text_of(header.owner_boot_id) == boot_id();
  return fmt::format("process {}{}", header.owner_pid,
                     here ? "" : fmt::format(" on {}", text_of(header.owner_host)));
}

std::string format_uuid(const std::array<uint8_t, 16>& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uuid[i]);
  }
  return text;
}

}  // namespace kvpool
