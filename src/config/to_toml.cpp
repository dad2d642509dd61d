#include "config/config.h"
#include "config/keys.h"

namespace kvpool {

std::string to_toml(const Config& config) {
  std::string out = "[pool]\n" + write_keys(pool_keys(), config);
  for (const DeviceConfig& device : config.devices) {
    out += "\n[[device]]\n" + write_keys(device_keys(), device, kind_bit(device.kind));
  }
  for (const NamespaceConfig& ns : config.namespaces) {
    out += "\n[[namespace]]\n" + write_keys(namespace_keys(), draft_of(ns));
  }
  return out + "\n[limits]\n" + write_keys(limits_keys(), config.limits);
}

}  // namespace kvpool
