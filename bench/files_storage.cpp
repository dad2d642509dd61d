#include "bench/files_storage.h"

#include <fmt/format.h>

#include <filesystem>
#include <set>
#include <system_error>

#include "base/units.h"
#include "bench/system_time.h"

namespace kvpool::bench {

bool lies_in_a_file(const DeviceConfig& device) {
  std::error_code ignored;
  return device.kind == DeviceKind::file && !std::filesystem::is_block_file(device.path, ignored);
}

Result<std::unique_ptr<Device>> FilesStorage::make(const DeviceConfig& device, uint64_t chunk_bytes) {
  if (!lies_in_a_file(device)) {
    return fail(Errc::unsupported, fmt::format("{}: only a file on a file system has a folder for chunk "
                                               "files beside it; `kvpool bench device` takes block devices",
                                               device.name));
  }
  auto directory = FilesDirectory::create(device.path + ".files");
  if (!directory) return tl::unexpected(directory.error());
  auto files = FilesDevice::create(
      **directory, {.name = device.name, .size_bytes = device.size_bytes, .chunk_bytes = chunk_bytes});
  if (!files) return tl::unexpected(files.error());
  directories_.push_back(std::move(*directory));
  devices_.push_back(files->get());
  return std::move(*files);
}

Status FilesStorage::make_cold(bool forget) {
  for (FilesDevice* device : devices_) device->set_forget(forget);
  for (const auto& directory : directories_) {
    if (auto dropped = directory->drop_cache(); !dropped) return dropped;
    const auto cached = directory->cached_bytes();
    if (!cached) return tl::unexpected(cached.error());
    if (*cached > 0) {
      return fail(Errc::system, fmt::format("{}: {} stay in the page cache; is somebody else reading them?",
                                            directory->path(), format_bytes(*cached)));
    }
  }
  return {};
}

std::optional<Nanos> FilesStorage::disk_busy() const {
  std::set<dev_t> disks;
  for (const auto& directory : directories_) disks.insert(directory->disk());
  Nanos all{0};
  for (const dev_t disk : disks) {
    const auto busy = kvpool::bench::disk_busy(disk);
    if (!busy) return std::nullopt;
    all += *busy;
  }
  return all;
}

}  // namespace kvpool::bench
