// Seeded random operations on a catalog and on a std::map that says what must be true.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include "base/prng.h"
#include "catalog/catalog.h"

namespace kvpool {
namespace {

struct Known {
  NamespaceId ns;
  BlockKey key;
  BlockId block;
  uint32_t generation = 0;
  BlockId parent = no_block;
  uint32_t depth = 0;
  bool writing = false;
  bool gone = false;    // Retired, and pinned
  bool orphan = false;  // Writing, and its parent is gone
  uint32_t pins = 0;    // the writer's not counted
  std::vector<Place> places;
  std::vector<Place> second{};  // empty: none
  bool published = false;
  uint64_t sum = 0;
};

class Model {
 public:
  Model(uint64_t seed, const CatalogOptions& options) : prng_(seed) {
    auto opened = Catalog::open(options);
    EXPECT_TRUE(opened.has_value());
    catalog_ = std::move(*opened);
    devices_ = options.devices.size();
  }

  void add(const std::vector<uint32_t>& segment_bytes, bool flat) {
    Geometry geometry{.name = "model", .block_tokens = 16, .segment_bytes = segment_bytes, .window = {}};
    ASSERT_TRUE(catalog_->add_namespace(geometry, flat).has_value());
    flat_.push_back(flat);
  }

  void step() {
    const uint64_t what = prng_.below(100);
    if (what < 40) return reserve();
    if (what < 60) return finish();
    if (what < 72) return pin();
    if (what < 84) return unpin();
    if (what < 92) return match();
    if (what < 94) return remove();
    if (what < 98) return second();
    return retire();
  }

  void check() {
    catalog_->check();
    uint64_t ready = 0;
    uint64_t writing = 0;
    uint64_t retired = 0;
    for (const auto& [id, known] : blocks_) {
      (known.writing ? writing : known.gone ? retired : ready) += 1;
      check_known(known);
    }
    const CatalogUsage usage = catalog_->usage();
    EXPECT_EQ(usage.ready_blocks, ready);
    EXPECT_EQ(usage.writing_blocks, writing);
    EXPECT_EQ(usage.retired_blocks, retired);
    check_overlaps();
  }

  // Everything comes home.
  void drain() {
    while (!blocks_.empty()) {
      Known& known = blocks_.begin()->second;
      if (known.writing) {
        abandon(known);
      } else if (known.pins > 0) {
        unpin(known);
      } else {
        catalog_->retire(known.block);
        sync();
      }
    }
    check();
    for (const uint64_t used : catalog_->usage().device_used_bytes) EXPECT_EQ(used, 0);
    EXPECT_EQ(catalog_->usage().live_bytes, 0);
  }

  Catalog& catalog() { return *catalog_; }
  uint64_t seconds() const { return seconds_; }

 private:
  BlockKey random_key() { return {prng_.below(3), prng_.below(400)}; }
  NamespaceId random_namespace() { return NamespaceId(static_cast<uint16_t>(prng_.below(flat_.size()))); }

  template <class Wanted>
  Known* pick(Wanted wanted) {
    std::vector<Known*> all;
    for (auto& [id, known] : blocks_) {
      if (wanted(known)) all.push_back(&known);
    }
    return all.empty() ? nullptr : all[prng_.below(all.size())];
  }

  Known* find(NamespaceId ns, const BlockKey& key) {
    for (auto& [id, known] : blocks_) {
      if (!known.gone && known.ns == ns && known.key == key) return &known;
    }
    return nullptr;
  }

  void reserve() {
    const NamespaceId ns = random_namespace();
    const BlockKey key = random_key();
    Known* parent = nullptr;
    if (!flat_[ns.value] && prng_.chance(0.85)) {
      parent = pick([&](const Known& k) { return k.ns == ns && !k.writing && !k.gone; });
    }
    const uint32_t segments = catalog_->geometry(ns).segments();
    std::vector<DeviceId> plan;
    for (uint32_t s = 0; s < segments; ++s) {
      plan.emplace_back(static_cast<uint8_t>(prng_.below(devices_)));
    }
    const Known* known = find(ns, key);
    const BlockId above = parent == nullptr ? no_block : parent->block;
    const uint32_t depth = parent == nullptr ? 0 : parent->depth + 1;
    const auto result = catalog_->reserve(ns, key, above, Phase(static_cast<uint32_t>(key.low)), depth, plan);
    if (known != nullptr) {
      const bool follows = flat_[ns.value] || known->parent == above;
      EXPECT_EQ(result.code, known->writing ? Errc::busy : follows ? Errc::ok : Errc::rejected);
      EXPECT_EQ(result.existing, result.code == Errc::ok);
      if (result.existing) {
        EXPECT_EQ(result.block, known->block);
      }
      return;
    }
    EXPECT_FALSE(result.existing);
    sync();
    if (result.code == Errc::rejected) {
      ++rejected_;
      return;
    }
    ASSERT_EQ(result.code, Errc::ok);
    if (parent != nullptr) {
      EXPECT_TRUE(catalog_->is_ready(above));
    }
    ASSERT_FALSE(blocks_.contains(result.block.value)) << "a live block's record was handed out";
    Known made{.ns = ns,
               .key = key,
               .block = result.block,
               .generation = catalog_->generation(result.block),
               .parent = above,
               .depth = depth,
               .writing = true,
               .places = std::vector<Place>(segments)};
    catalog_->places(result.block, 0, made.places);
    blocks_.emplace(result.block.value, std::move(made));
  }

  void finish() {
    Known* known = pick([](const Known& k) { return k.writing; });
    if (known == nullptr) return;
    if (prng_.chance(0.2)) return abandon(*known);
    known->sum = prng_.next();
    const std::vector<uint64_t> sums(known->places.size(), known->sum);
    const Errc code = catalog_->commit(known->block, sums);
    EXPECT_EQ(code, known->orphan ? Errc::rejected : Errc::ok);
    known->writing = false;
    if (code != Errc::ok) ended(*known);
  }

  void abandon(Known& known) {
    catalog_->abandon(known.block);
    known.writing = false;
    ended(known);
  }

  // It is no longer Ready or Writing.
  void ended(Known& known) {
    known.gone = true;
    if (known.pins > 0) return;
    EXPECT_GT(catalog_->generation(known.block), known.generation);
    blocks_.erase(known.block.value);
  }

  void pin() {
    Known* known = pick([](const Known& k) { return !k.gone || k.pins > 0; });
    if (known == nullptr || pins_ >= 12) return;
    catalog_->pin(known->block);
    ++known->pins;
    ++pins_;
  }

  // Second residences of unpinned blocks may go at any time, so the model follows those of pinned ones.
  void second() {
    Known* known = pick([](const Known& k) { return k.pins > 0; });
    if (known == nullptr) return;
    if (!known->second.empty()) {
      if (known->published || prng_.chance(0.3)) {
        catalog_->drop_second(known->block);
        known->second.clear();
      } else {
        catalog_->publish_second(known->block);
        known->published = true;
      }
      return;
    }
    std::array<bool, 16> wanted{};
    for (size_t s = 0; s < known->places.size(); ++s) wanted[s] = prng_.chance(0.3);
    const DeviceId device(static_cast<uint8_t>(prng_.below(devices_)));
    const std::span<const bool> all(wanted.data(), known->places.size());
    const uint64_t ready = catalog_->usage().ready_blocks;
    const bool reserved = catalog_->reserve_second(known->block, device, all);
    EXPECT_EQ(catalog_->usage().ready_blocks, ready) << "a second residence evicted a block";
    sync_seconds();
    if (!reserved) return;
    ++seconds_;
    known->second.resize(all.size());
    known->published = false;
    catalog_->places(known->block, 2, known->second);
    for (size_t s = 0; s < all.size(); ++s) {
      EXPECT_EQ(known->second[s].device, wanted[s] ? device : no_device);
    }
  }

  void sync_seconds() {
    for (auto& [id, known] : blocks_) {
      if (known.pins == 0 && !known.writing) known.second.clear();
    }
  }

  void unpin() {
    Known* known = pick([](const Known& k) { return k.pins > 0; });
    if (known != nullptr) unpin(*known);
  }

  void unpin(Known& known) {
    if (known.pins == 1 && !known.second.empty() && !known.published) {
      catalog_->drop_second(known.block);
      known.second.clear();
    }
    catalog_->unpin(known.block);
    --known.pins;
    --pins_;
    if (known.pins == 0) known.second.clear();
    if (known.gone && known.pins == 0) ended(known);
  }

  void match() {
    const NamespaceId ns = random_namespace();
    std::vector<const Known*> chain;
    if (flat_[ns.value]) {
      for (int i = 0; i < 40; ++i) {
        const Known* known = pick([&](const Known& k) { return k.ns == ns && !k.writing && !k.gone; });
        if (known != nullptr) chain.push_back(known);
      }
    } else {
      const Known* at = pick([&](const Known& k) { return k.ns == ns && !k.writing && !k.gone; });
      for (; at != nullptr; at = at->parent == no_block ? nullptr : &blocks_.at(at->parent.value)) {
        chain.insert(chain.begin(), at);
      }
    }
    if (chain.empty()) return;
    std::vector<BlockKey> keys;
    for (const Known* known : chain) keys.push_back(known->key);
    keys.push_back({77, prng_.next()});
    keys.push_back(chain.front()->key);
    const size_t skip = flat_[ns.value] ? 0 : prng_.below(chain.size());
    const BlockId parent = skip == 0 ? no_block : chain[skip - 1]->block;
    std::vector<BlockId> out(keys.size());
    const uint32_t count = catalog_->match(ns, parent, std::span(keys).subspan(skip), out);
    ASSERT_EQ(count, chain.size() - skip);
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(out[i], chain[skip + i]->block);
    if (!flat_[ns.value] && chain.size() > 1) {
      EXPECT_EQ(catalog_->match(ns, no_block, std::span(keys).subspan(1, 1), out), 0) << "not a root";
    }
  }

  void remove() {
    Known* known = pick([](const Known& k) { return !k.gone && !k.writing; });
    if (known == nullptr) return;
    const uint64_t before = catalog_->usage().ready_blocks;
    const uint32_t count = catalog_->remove(known->ns, known->key);
    EXPECT_GE(count, 1);
    EXPECT_EQ(catalog_->usage().ready_blocks, before - count);
    EXPECT_EQ(catalog_->find(known->ns, known->key), no_block);
    sync();
  }

  void retire() {
    Known* known = pick([](const Known& k) { return !k.gone && !k.writing; });
    if (known == nullptr) return;
    const BlockId block = known->block;
    catalog_->retire(block);
    EXPECT_FALSE(catalog_->is_ready(block));
    catalog_->retire(block);
    sync();
  }

  // Takes over what the catalog evicted or retired; asserts that descendants went along.
  void sync() {
    for (auto& [id, known] : blocks_) {
      if (known.writing || known.gone) continue;
      const bool ready =
          catalog_->generation(known.block) == known.generation && catalog_->is_ready(known.block);
      known.gone = !ready;
      if (known.gone && known.pins > 0) {
        EXPECT_EQ(catalog_->generation(known.block), known.generation);
      }
    }
    for (auto& [id, known] : blocks_) {
      if (known.parent == no_block || known.gone) continue;
      const auto parent = blocks_.find(known.parent.value);
      const bool parent_gone = parent == blocks_.end() || parent->second.gone;
      if (known.writing) {
        known.orphan = known.orphan || parent_gone;
        if (parent_gone) known.parent = no_block;
      } else {
        EXPECT_FALSE(parent_gone) << "a Ready block without its parent";
      }
    }
    std::erase_if(blocks_, [](const auto& entry) { return entry.second.gone && entry.second.pins == 0; });
  }

  void check_known(const Known& known) {
    EXPECT_EQ(catalog_->generation(known.block), known.generation);
    EXPECT_EQ(catalog_->key(known.block), known.key);
    EXPECT_EQ(catalog_->namespace_of(known.block), known.ns);
    EXPECT_EQ(catalog_->depth(known.block), known.depth);
    EXPECT_EQ(catalog_->phase(known.block).value, known.key.low);
    EXPECT_EQ(catalog_->is_ready(known.block), !known.writing && !known.gone);
    if (known.pins > 0 || known.writing) {
      std::vector<Place> now(known.places.size());
      catalog_->places(known.block, 0, now);
      for (size_t s = 0; s < now.size(); ++s) {
        EXPECT_EQ(now[s].device, known.places[s].device);
        EXPECT_EQ(now[s].offset, known.places[s].offset);
      }
      if (known.second.empty()) return;
      catalog_->places(known.block, known.published ? 1 : 2, now);
      for (size_t s = 0; s < now.size(); ++s) {
        EXPECT_EQ(now[s].device, known.second[s].device);
        EXPECT_EQ(now[s].offset, known.second[s].offset);
      }
    }
    if (!known.writing && !known.gone) {
      for (const uint64_t sum : catalog_->checksums(known.block)) EXPECT_EQ(sum, known.sum);
    }
  }

  void check_overlaps() {
    std::map<std::pair<uint8_t, uint64_t>, uint64_t> taken;
    uint64_t bytes = 0;
    size_t count = 0;
    for (const auto& [id, known] : blocks_) {
      const Geometry& geometry = catalog_->geometry(known.ns);
      bytes += geometry.block_bytes();
      for (size_t s = 0; s < known.places.size(); ++s) {
        const uint64_t begin = known.places[s].offset.value;
        taken[{known.places[s].device.value, begin}] = begin + geometry.segment_bytes[s];
      }
      for (size_t s = 0; s < known.second.size(); ++s) {
        if (known.second[s].device == no_device) continue;
        const uint64_t begin = known.second[s].offset.value;
        taken[{known.second[s].device.value, begin}] = begin + geometry.segment_bytes[s];
        ++count;
      }
    }
    EXPECT_EQ(catalog_->usage().live_bytes, bytes);
    const CatalogUsage usage = catalog_->usage();
    for (const auto& [id, known] : blocks_) count += known.places.size();
    EXPECT_EQ(taken.size(), count) << "two segments at one place";
    for (auto at = taken.begin(); at != taken.end(); ++at) {
      const auto next = std::next(at);
      EXPECT_LE(at->second, usage.device_size_bytes[at->first.first]);
      if (next == taken.end() || next->first.first != at->first.first) continue;
      EXPECT_LE(at->second, next->first.second) << "segments overlap";
    }
  }

  Prng prng_;
  std::unique_ptr<Catalog> catalog_;
  std::vector<bool> flat_;
  std::map<uint32_t, Known> blocks_;
  size_t devices_ = 0;
  uint32_t pins_ = 0;
  uint64_t rejected_ = 0;
  uint64_t seconds_ = 0;
};

CatalogOptions small_options(uint64_t seed) {
  Prng prng(seed);
  CatalogOptions options{
      .devices = {}, .blocks_max = 300, .segments_max = 12, .residences_max = seed % 2 == 0 ? 2U : 1U};
  const uint64_t devices = prng.between(1, 4);
  for (uint64_t d = 0; d < devices; ++d) {
    options.devices.push_back({.size_bytes = prng.between(1 << 20, 4 << 20),
                               .alignment_bytes = prng.chance(0.5) ? 4096U : 1U,
                               .storage = d > 0});
  }
  return options;
}

TEST(CatalogModel, RandomOperations) {
  uint64_t seconds = 0;
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Model model(seed, small_options(seed));
    model.add(std::vector<uint32_t>(8, 16384), false);
    model.add({4096, 12288, 4096, 12288, 40000, 5}, false);
    model.add(std::vector<uint32_t>(3, 24576), true);
    for (int batch = 0; batch < 40; ++batch) {
      for (int i = 0; i < 100; ++i) model.step();
      model.check();
      if (testing::Test::HasFailure()) return;
    }
    EXPECT_GT(model.catalog().counters().committed_blocks, 100);
    EXPECT_GT(model.catalog().counters().evicted_blocks, 0);
    seconds += model.seconds();
    EXPECT_TRUE(seed % 2 == 0 || model.seconds() == 0);
    model.drain();
  }
  EXPECT_GT(seconds, 50);
}

}  // namespace
}  // namespace kvpool
