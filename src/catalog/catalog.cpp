#include "catalog/catalog.h"

#include "catalog/impl.h"

namespace kvpool {

Catalog::Catalog(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Catalog::~Catalog() = default;

Result<std::unique_ptr<Catalog>> Catalog::open(const CatalogOptions& options) {
  auto impl = std::make_unique<Impl>();
  if (Status opened = impl->open(options); !opened) return tl::unexpected(opened.error());
  return std::unique_ptr<Catalog>(new Catalog(std::move(impl)));
}

Result<NamespaceId> Catalog::add_namespace(const Geometry& geometry, bool flat) {
  return impl_->add_namespace(geometry, flat);
}

size_t Catalog::namespaces() const { return impl_->shapes.size(); }

const Geometry& Catalog::geometry(NamespaceId ns) const {
  KVPOOL_ASSERT(ns.value < impl_->shapes.size());
  return impl_->shapes[ns.value]->geometry;
}

uint32_t Catalog::match(NamespaceId ns, BlockId parent, std::span<const BlockKey> keys,
                        std::span<BlockId> out) {
  return impl_->match(ns, parent, keys, out);
}

BlockId Catalog::find(NamespaceId ns, const BlockKey& key) const {
  const BlockId block = impl_->find(ns, key);
  return block != no_block && impl_->blocks[block].state == BlockState::ready ? block : no_block;
}

void Catalog::pin(BlockId block) {
  const Record& record = impl_->live(block);
  KVPOOL_ASSERT(record.state != BlockState::retired || record.pins > 0);
  impl_->blocks.pin(block);
}

void Catalog::unpin(BlockId block) {
  // A Writing block's own pin is not the caller's to give back.
  const Record& record = impl_->live(block);
  KVPOOL_ASSERT(record.pins > (record.state == BlockState::writing ? 1 : 0));
  impl_->unpin(block);
}

Catalog::Reservation Catalog::reserve(NamespaceId ns, const BlockKey& key, BlockId parent, Phase phase,
                                      uint32_t depth, std::span<const DeviceId> plan) {
  return impl_->reserve(ns, key, parent, phase, depth, plan);
}

Errc Catalog::commit(BlockId block, std::span<const uint64_t> checksums) {
  return impl_->commit(block, checksums);
}

void Catalog::abandon(BlockId block) { impl_->abandon(block); }

void Catalog::retire(BlockId block) {
  if (is_ready(block)) impl_->counters.retired_blocks += impl_->retire_tree(block);
}

uint32_t Catalog::remove(NamespaceId ns, const BlockKey& key) {
  const BlockId block = find(ns, key);
  if (block == no_block) return 0;
  const uint32_t count = impl_->retire_tree(block);
  impl_->counters.removed_blocks += count;
  return count;
}

void Catalog::places(BlockId block, uint32_t residence, std::span<Place> out) const {
  impl_->places(block, residence, out);
}

std::span<const uint64_t> Catalog::checksums(BlockId block) const { return impl_->checksums_of(block); }
Phase Catalog::phase(BlockId block) const { return impl_->live(block).phase; }
uint32_t Catalog::depth(BlockId block) const { return impl_->live(block).depth; }
BlockKey Catalog::key(BlockId block) const { return impl_->live(block).key; }
NamespaceId Catalog::namespace_of(BlockId block) const { return impl_->live(block).ns; }

uint32_t Catalog::generation(BlockId block) const {
  KVPOOL_ASSERT(impl_->blocks.valid(block));
  return impl_->blocks[block].generation;
}

bool Catalog::is_ready(BlockId block) const {
  return impl_->blocks.valid(block) && impl_->blocks[block].state == BlockState::ready;
}

bool Catalog::reserve_second(BlockId block, DeviceId device, std::span<const bool> wanted) {
  return impl_->reserve_second(block, device, wanted);
}

void Catalog::publish_second(BlockId block) {
  KVPOOL_ASSERT(impl_->live(block).pins > 0);
  impl_->seconds.publish(block);
}

void Catalog::abandon_second(BlockId block) {
  KVPOOL_ASSERT(impl_->live(block).pins > 0);
  impl_->seconds.abandon(block);
}

void Catalog::drop_second(BlockId block) {
  KVPOOL_ASSERT(impl_->live(block).pins > 0);
  impl_->drop_second(block);
}

void Catalog::set_online(DeviceId device, bool online) { impl_->set_online(device, online); }
RangeSet& Catalog::freed(DeviceId device) { return impl_->freed(device); }

CatalogUsage Catalog::usage() const { return impl_->usage(); }
const CatalogCounters& Catalog::counters() const { return impl_->count(); }
double Catalog::bytes_per_block() const { return impl_->bytes_per_block(); }
uint32_t Catalog::probes_max() const { return impl_->index.probes_max(); }
void Catalog::check() const { impl_->check(); }

}  // namespace kvpool
