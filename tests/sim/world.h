// World: a whole pool in virtual time, made from one seed: devices with faults on them, a catalog, an engine,
// and actors that use it. run() steps until everybody is done, then checks that everything came home.

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/clock.h"
#include "base/prng.h"
#include "catalog/catalog.h"
#include "engine/engine.h"
#include "io/fault_device.h"
#include "io/sim/sim_device.h"
#include "io/sim/sim_transfer.h"

namespace kvpool::sim {

class Actor;

struct WorldOptions {
  uint64_t seed = 1;
  bool faults = false;  // devices fail, are short, corrupt, late or stuck
  uint32_t actors = 3;
  uint32_t jobs_per_actor = 40;
};

class World {
 public:
  explicit World(WorldOptions options);
  ~World();

  // Empty when all is well, else what was wrong.
  [[nodiscard]] std::string run();
  // Steps until `done` or a failure.
  void run_until(const std::function<bool()>& done);

  [[nodiscard]] Engine& engine() { return *engine_; }
  [[nodiscard]] Catalog& catalog() { return *catalog_; }
  [[nodiscard]] VirtualClock& clock() { return clock_; }
  [[nodiscard]] const WorldOptions& options() const { return options_; }
  [[nodiscard]] std::vector<std::unique_ptr<Actor>>& actors() { return actors_; }
  [[nodiscard]] uint32_t namespaces() const { return static_cast<uint32_t>(flat_.size()); }
  [[nodiscard]] bool is_flat(NamespaceId ns) const { return flat_[ns.value]; }
  // The key of block `depth` of conversation `chain`; conversations share their first blocks in pairs.
  [[nodiscard]] BlockKey key(NamespaceId ns, uint32_t chain, uint32_t depth) const;
  // Whether [place, place + bytes) lies in a memory device.
  [[nodiscard]] bool is_pool_memory(const std::byte* place, uint64_t bytes) const;
  // Whether bytes in memory may change that were right when they were read.
  [[nodiscard]] bool memory_rots() const { return memory_rots_; }
  void fail(std::string what);

  std::unordered_set<uint64_t> ever_stored;  // mixes of namespace and key
  std::vector<PinId> loose_pins;             // taken by one actor, to be redeemed by any

 private:
  void make_devices(Prng& prng);
  // verified: what is read from the device is, so it may be corrupt.
  [[nodiscard]] FaultOptions random_faults(Prng& prng, bool verified) const;
  void make_engine(Prng& prng);
  Nanos go_or_come(Prng& prng);
  void free_stuck_requests();
  [[nodiscard]] bool all_done() const;
  void check_bad_blocks_are_gone();
  void check_home();

  WorldOptions options_;
  VirtualClock clock_;
  Verify verify_ = Verify::always;
  bool memory_rots_ = false;
  std::vector<std::span<const std::byte>> pool_memory_;
  std::vector<std::unique_ptr<FaultDevice>> faulty_;
  std::vector<std::vector<std::byte>> staging_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<SimTransfer> transfer_;
  std::unique_ptr<Engine> engine_;
  std::vector<bool> flat_;
  std::vector<std::unique_ptr<Actor>> actors_;
  // One actor in some worlds dies in the middle of its work.
  bool one_dies_ = false;
  Nanos dies_at_{0};
  Nanos free_at_{0};
  Nanos goes_at_ = never;  // or comes: some device
  Prng comings_{0};
  uint64_t rounds_ = 0;
  std::string failure_;
};

}  // namespace kvpool::sim
