#include "io/block/whole_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/units.h"
#include "io/block/signature.h"

namespace kvpool {
namespace {

constexpr uint32_t page_bytes = 4096;
// Left alone at a device's end: there lie backup partition tables and some RAID and file system labels.
constexpr uint64_t tail_bytes = 1ULL << 20;
// Read as a whole before a device is taken to be blank; behind that, samples.
constexpr uint64_t head_bytes = 64ULL << 20;
constexpr uint64_t samples = 254;
constexpr uint64_t sample_alignment_bytes = 64ULL << 10;  // the largest unit that any device has
constexpr size_t chunk_bytes = 1ULL << 20;

bool are_all(std::span<const std::byte> bytes, std::byte value) {
  return std::ranges::all_of(bytes, [value](std::byte b) { return b == value; });
}

// All zeros or all ones, as drives are when they come and when they were erased.
Result<bool> is_blank(const WholeDevice& device, uint64_t from, uint64_t to, std::span<std::byte> chunk) {
  for (uint64_t at = from; at < to; at += chunk.size()) {
    const std::span<std::byte> part = chunk.first(std::min<uint64_t>(chunk.size(), to - at));
    if (Status done = device.read(at, part); !done) return tl::unexpected(done.error());
    if (!are_all(part, std::byte{0}) && !are_all(part, std::byte{0xff})) return false;
  }
  return true;
}

tl::unexpected<Error> holds_something(const WholeDevice& device) {
  const Signature signature = device.block_path.empty() ? Signature{} : find_signature(device.block_path);
  return fail(
      Errc::not_ours,
      fmt::format("{}: holds data that kvpool did not write{}; it was left alone. Give another one, or "
                  "erase this one yourself if nobody needs it (blkdiscard -z, or nvme format)",
                  device.path, signature.type.empty() ? "" : fmt::format(" ({})", signature.type)));
}

}  // namespace

uint32_t WholeDevice::unit_bytes() const { return std::max(page_bytes, block_bytes); }

void FreeUnits::operator()(std::byte* memory) const { std::free(memory); }

Units take_units(uint32_t unit_bytes, size_t bytes) {
  Units units(static_cast<std::byte*>(std::aligned_alloc(unit_bytes, bytes)));
  KVPOOL_ASSERT(units != nullptr);
  std::memset(units.get(), 0, bytes);
  return units;
}

// Ours by its header, or blank: at its beginning and its end, where file systems, partition tables, volume
// managers and RAID have their signatures, and in samples in between. What is ours is blank around its header
// too: a RAID or a volume manager may have left that alone.
Status check_contents(const WholeDevice& device) {
  const uint32_t unit = device.unit_bytes();
  const uint64_t size = device.size_bytes;
  if (size < pool_data_offset_bytes + tail_bytes + unit) {
    return fail(Errc::invalid_argument, fmt::format("{}: has {} only", device.path, format_bytes(size)));
  }
  const Units memory = take_units(unit, chunk_bytes);
  const std::span<std::byte> chunk(memory.get(), chunk_bytes);
  if (Status done = device.read(0, chunk.first(unit)); !done) return done;
  PoolHeader header;
  std::memcpy(&header, chunk.data(), sizeof header);
  Status known = check_pool_header(header, device.path);
  if (!known && known.error().code == Errc::unsupported) return known;
  std::vector<std::pair<uint64_t, uint64_t>> ranges = {{unit, pool_data_offset_bytes},
                                                       {size - tail_bytes, size}};
  if (!known) {
    ranges.emplace_back(0, unit);
    ranges.emplace_back(pool_data_offset_bytes, std::min(head_bytes, size - tail_bytes));
    const uint64_t step = size / (samples + 1) / sample_alignment_bytes * sample_alignment_bytes;
    for (uint64_t i = 1; step > 0 && i <= samples; ++i) ranges.emplace_back(i * step, i * step + unit);
  }
  for (const auto& [from, to] : ranges) {
    const auto blank = is_blank(device, from, to, chunk);
    if (!blank) return tl::unexpected(blank.error());
    if (!*blank) return holds_something(device);
  }
  return {};
}

Result<PoolHeader> make_device_header(const WholeDevice& device, uint64_t size_bytes) {
  const uint32_t unit = device.unit_bytes();
  KVPOOL_ASSERT(size_bytes >= unit);
  const uint64_t room = (device.size_bytes - pool_data_offset_bytes - tail_bytes) / unit * unit;
  if (size_bytes > room) {
    return fail(Errc::invalid_argument,
                fmt::format("{}: {} do not fit, it has room for {}; make the device smaller", device.path,
                            format_bytes(size_bytes), format_bytes(room)));
  }
  return make_pool_header(size_bytes / unit * unit, unit);
}

}  // namespace kvpool
