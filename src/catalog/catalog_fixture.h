// For the catalog's tests: a catalog with the few calls that tests make over and over.

#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "catalog/catalog.h"

namespace kvpool {

class CatalogFixture : public testing::Test {
 protected:
  static constexpr uint64_t KiB = 1024;
  static constexpr uint64_t MiB = 1024 * KiB;

  void open(std::vector<uint64_t> device_bytes, uint32_t blocks_max = 1000, uint32_t residences = 1,
            uint32_t segments = 64, std::vector<double> shares = {}) {
    CatalogOptions options{
        .devices = {}, .blocks_max = blocks_max, .segments_max = segments, .residences_max = residences};
    for (const uint64_t bytes : device_bytes) options.devices.push_back({.size_bytes = bytes});
    for (size_t i = 0; i < shares.size(); ++i) options.devices[i].share = shares[i];
    auto opened = Catalog::open(options);
    ASSERT_TRUE(opened.has_value()) << opened.error().message;
    catalog = std::move(*opened);
  }

  static Geometry geometry(std::vector<uint32_t> segment_bytes) {
    return {.name = "test", .block_tokens = 16, .segment_bytes = std::move(segment_bytes), .window = {}};
  }
  NamespaceId add(std::vector<uint32_t> segment_bytes, bool flat = false) {
    const auto added = catalog->add_namespace(geometry(std::move(segment_bytes)), flat);
    EXPECT_TRUE(added.has_value());
    return added.value_or(NamespaceId());
  }

  static BlockKey key(uint64_t number) { return {number * 0x9e3779b97f4a7c15ULL, number}; }

  // Every segment on the device, or, without one, on the devices in turn.
  Catalog::Reservation reserve(NamespaceId ns, uint64_t number, BlockId parent = no_block,
                               DeviceId device = no_device) {
    std::vector<DeviceId> plan;
    const auto devices = catalog->usage().device_size_bytes.size();
    for (uint32_t s = 0; s < catalog->geometry(ns).segments(); ++s) {
      plan.push_back(device != no_device ? device : DeviceId(static_cast<uint8_t>((number + s) % devices)));
    }
    return catalog->reserve(ns, key(number), parent, Phase(3), 0, plan);
  }
  Errc commit(BlockId block) {
    const std::vector<uint64_t> sums(catalog->geometry(catalog->namespace_of(block)).segments(), block.value);
    return catalog->commit(block, sums);
  }
  BlockId store(NamespaceId ns, uint64_t number, BlockId parent = no_block, DeviceId device = no_device) {
    const auto result = reserve(ns, number, parent, device);
    if (result.code != Errc::ok || result.existing) return no_block;
    EXPECT_EQ(commit(result.block), Errc::ok);
    return result.block;
  }
  bool has(NamespaceId ns, uint64_t number) { return catalog->find(ns, key(number)) != no_block; }
  uint32_t match(NamespaceId ns, std::vector<uint64_t> numbers, BlockId parent = no_block) {
    std::vector<BlockKey> keys;
    for (const uint64_t number : numbers) keys.push_back(key(number));
    std::vector<BlockId> out(keys.size());
    return catalog->match(ns, parent, keys, out);
  }
  double live_fraction() {
    const CatalogUsage usage = catalog->usage();
    uint64_t size = 0;
    for (const uint64_t bytes : usage.device_size_bytes) size += bytes;
    return static_cast<double>(usage.live_bytes) / static_cast<double>(size);
  }

  std::unique_ptr<Catalog> catalog;
};

}  // namespace kvpool
