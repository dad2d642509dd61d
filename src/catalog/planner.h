// Planner: chooses a device for each segment of a new block, by the room there is now: the planned one, or,
// where that is full, one of those that have room. They stand in for it by their shares, so that what is read
// from all at once still comes from each at its rate; those without a share where no other has room, the one
// with most free bytes first. It only counts; nothing is taken.
//
// Thread: its owner's. Failure: says how far it came.

#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "catalog/extents.h"
#include "catalog/space.h"
#include "layout/geometry.h"
#include "layout/placement.h"

namespace kvpool {

// A namespace as the catalog needs it.
struct Shape {
  Geometry geometry;
  bool flat = false;
  uint64_t block_bytes = 0;
  std::vector<SizeClass> kinds;  // the distinct size classes
  std::vector<uint8_t> kind_of;  // per segment, index into kinds
  bool fits = false;             // an empty pool can hold a block

  [[nodiscard]] uint32_t segments() const { return geometry.segments(); }
  [[nodiscard]] SizeClass size_class(uint32_t segment) const { return kinds[kind_of[segment]]; }
};

enum class Fit : uint8_t {
  planned,  // every segment on its planned device
  spilled,  // some elsewhere
  no_room,
};

class Planner {
 public:
  // Where blocks choose among stand-ins: successive blocks of a chain, and their segments, lie evenly.
  [[nodiscard]] static uint64_t first_point(Phase phase, uint32_t depth, uint32_t segments);

  // Fills `chosen`, one for each planned device. Unless `planned`, short_of() is the first that found no
  // room on a device that is online, where there is one.
  [[nodiscard]] Fit fit(const std::vector<Space>& spaces, const Shape& shape, std::span<const DeviceId> plan,
                        uint64_t first_point, std::span<SegmentSlot> chosen);
  [[nodiscard]] SegmentSlot short_of() const { return short_of_; }

  // Is there room on the device for all segments that `wanted` names?
  [[nodiscard]] bool fits_on(const std::vector<Space>& spaces, const Shape& shape, DeviceId device,
                             std::span<const bool> wanted);
  void set_share(DeviceId device, double share) { shares_[device.value] = share; }
  // One that is not has no room for anything.
  void set_online(DeviceId device, bool online) { offline_[device.value] = !online; }
  [[nodiscard]] bool is_online(DeviceId device) const { return !offline_[device.value]; }
  // Would empty devices hold a block?
  [[nodiscard]] bool fits_empty(const std::vector<Space>& spaces, const Shape& shape);

 private:
  void count(const std::vector<Space>& spaces, const Shape& shape, bool as_if_empty);
  [[nodiscard]] bool take(const Space& space, size_t device, const Shape& shape, uint32_t kind);
  // Free bytes for the kind.
  [[nodiscard]] uint64_t room(const std::vector<Space>& spaces, const Shape& shape, uint32_t kind,
                              size_t device) const;
  // These two: no_device, if none has room for the kind.
  [[nodiscard]] DeviceId roomiest(const std::vector<Space>& spaces, const Shape& shape, uint32_t kind) const;
  [[nodiscard]] DeviceId stand_in(const std::vector<Space>& spaces, const Shape& shape, uint32_t kind,
                                  uint64_t point) const;

  std::array<uint32_t, devices_max> empty_{};                           // slabs
  std::array<std::array<uint32_t, segments_max>, devices_max> free_{};  // slots, by kind
  std::array<bool, devices_max> offline_{};
  std::array<double, devices_max> shares_{};
  SegmentSlot short_of_{.device = no_device, .size_class = no_class};
};

}  // namespace kvpool
