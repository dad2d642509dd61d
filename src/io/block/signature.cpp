#include "io/block/signature.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

namespace kvpool {
namespace {

Signature probe(int fd) {
  const std::unique_ptr<blkid_struct_probe, decltype(&blkid_free_probe)> probe(blkid_new_probe(),
                                                                               blkid_free_probe);
  if (!probe || blkid_probe_set_device(probe.get(), fd, 0, 0) != 0) {
    return {.unknown = "libblkid cannot read it"};
  }
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_enable_partitions(probe.get(), 1);
  const int found = blkid_do_safeprobe(probe.get());
  if (found < 0) return {.unknown = found == -2 ? "it holds several signatures" : "it cannot be read"};
  const char* type = nullptr;
  for (const char* name : {"TYPE", "PTTYPE"}) {
    if (type == nullptr) blkid_probe_lookup_value(probe.get(), name, &type, nullptr);
  }
  return {.type = type != nullptr ? type : ""};
}

}  // namespace

Signature find_signature(const std::string& device) {
  const int fd = open(device.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return {.unknown = std::generic_category().message(errno)};
  Signature signature = probe(fd);
  close(fd);
  return signature;
}

}  // namespace kvpool
