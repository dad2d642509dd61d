// Pool: everything that one kvpool_open() made, and the administration around it. Implementations of devices,
// transfers and clocks are named in compose.cpp alone.
//
// Threads: any; a mutex guards namespaces, consumers and the buffer memory. Nothing of this is on the data
// path.

#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "catalog/catalog.h"
#include "config/config.h"
#include "engine/engine.h"
#include "engine/reactor.h"
#include "io/device.h"
#include "kvpool/kvpool.h"
#include "xfer/transfer.h"

namespace kvpool {

class DeviceSet;

// The pieces of a pool, in the order in which they are made; they go in the opposite order.
struct Pieces {
  Pieces();
  ~Pieces();
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

  Config config;
  std::unique_ptr<Clock> clock;
  std::unique_ptr<DeviceSet> set;
  std::span<std::byte> buffers;               // for consumers' regions
  std::vector<std::span<std::byte>> regions;  // all memory that was taken
  std::unique_ptr<Catalog> catalog;
  std::unique_ptr<Transfer> transfer;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Reactor> reactor;  // not started
};

// Opens what a validated configuration names. Nothing is left behind on failure but what kvpool owns.
[[nodiscard]] Result<std::unique_ptr<Pieces>> compose(Config config);

// Hands out parts of the consumers' buffer memory, first fit. Not for the data path.
class BufferMemory {
 public:
  explicit BufferMemory(std::span<std::byte> memory);
  // Empty when there is no room in one piece. 4096-byte aligned.
  [[nodiscard]] std::span<std::byte> take(uint64_t bytes);
  void give_back(std::span<std::byte> part);
  [[nodiscard]] uint64_t largest_free_bytes() const;

 private:
  std::span<std::byte> memory_;
  std::map<uint64_t, uint64_t> free_;  // offset to bytes
};

}  // namespace kvpool

struct kvpool_consumer;

struct kvpool_pool {
  explicit kvpool_pool(std::unique_ptr<kvpool::Pieces> made);

  std::unique_ptr<kvpool::Pieces> pieces;
  kvpool::BufferMemory buffers;
  std::mutex mutex;  // of what follows, and of `buffers`
  std::map<std::string, uint32_t, std::less<>> namespaces;
  std::vector<bool> flat;
  std::vector<kvpool_consumer*> consumers;

  // Starts the engine and adds the configured namespaces.
  [[nodiscard]] static kvpool::Result<std::unique_ptr<kvpool_pool>> start(
      std::unique_ptr<kvpool::Pieces> made);

  [[nodiscard]] kvpool::Reactor& reactor() const { return *pieces->reactor; }
  [[nodiscard]] kvpool::Status add_configured_namespaces();
  [[nodiscard]] kvpool::Result<uint32_t> open_namespace(const kvpool::Geometry& geometry, bool is_flat);
};
