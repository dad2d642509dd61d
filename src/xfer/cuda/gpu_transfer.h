// GpuTransfer: carries segments of blocks between registered host memory and the pages of a paged KV cache in
// GPU memory. A load scatters segments to pages, a store gathers pages into segments. A batch is many
// segments of one direction; it is put on a stream of that direction and nobody waits for it here. Both
// directions run at the same time.
//
// The copy engine moves whole runs of host memory to and from a ring in GPU memory; a kernel of a few blocks
// carries the pieces between the ring and the pages.
//
// Thread: one owner thread at a time; no call blocks but open, register_host() and the destructor. Nothing is
// allocated but by open(), register_host() and set_layers(), and for messages of errors. The caller's current
// CUDA device and capture mode are as before after each call.
//
// Memory: from submit() to its completion a batch has the bytes of its segments and pages; the arrays that
// describe it are read during submit() alone. The destructor waits for the batches under way, but at most
// close_wait_ms_max: one that waits for a stream may never begin. After that it says so in the log, and
// leaves streams, ring and registered memory as they are; the bytes of those batches are then not the
// caller's again. Giving memory back, CUDA itself waits for whatever else runs on the device; that has no
// limit here.
//
// Failure: submit() refuses what is wrong (invalid_argument, too_large; also a check of a store, or of what
// list_pieces() says cannot be checked) and a full queue (busy, try again
// after a completion); nothing was done then. An accepted batch completes exactly once. After an error of
// CUDA every later batch is refused, and those under way complete, as failed where the error is theirs or
// stays: a CUDA context does not recover.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "xfer/cuda/paged_layout.h"

namespace kvpool {

enum class GpuDirection : uint8_t {
  load,   // host segments to pages
  store,  // pages to host segments
};

struct GpuOptions {
  // Larger pieces are cut, so that all of a kernel's blocks have work.
  static constexpr uint64_t piece_bytes_max = 64 << 10;
  static constexpr uint32_t pieces_most = 1 << 20;  // what pieces_max may be at most

  int device = 0;                        // CUDA's ordinal
  uint32_t batches_max = 16;             // under way, each direction
  uint32_t pieces_max = 16384;           // of a batch, after joining neighbours and cutting large ones
  uint64_t staging_bytes = 64ULL << 20;  // of GPU memory, each direction
  // Copies of others on the GPU, an engine's among them, wait for about so many bytes of these at a time.
  // Rounded up to chunks, each a quarter of staging_bytes. 0: for all that are under way.
  uint64_t give_way_bytes = 64ULL << 20;
  uint32_t close_wait_ms_max = 10'000;  // the destructor, for batches under way
};

// An event of the caller's, a cudaEvent_t as a number. REQUIRES: it is there.
struct ExternalEvent {
  uintptr_t handle = 0;
};

struct PagedBatch {
  GpuDirection direction = GpuDirection::load;
  std::span<const PagedSegment> segments;
  std::span<const int32_t> pages;      // page numbers of all segments; below 0: not there, passed over
  std::optional<ExternalEvent> after;  // begins after what this event was recorded behind, before submit()
};

struct GpuTicket {
  GpuDirection direction = GpuDirection::load;
  uint64_t number = 0;  // counts up from 0 in each direction
  friend bool operator==(const GpuTicket&, const GpuTicket&) = default;
};

struct GpuCompletion {
  GpuTicket ticket;
  Errc code = Errc::ok;  // corrupt: all was carried, and some segment's check is not that of its bytes
};

class GpuTransfer {
 public:
  GpuTransfer() = default;
  GpuTransfer(const GpuTransfer&) = delete;
  GpuTransfer& operator=(const GpuTransfer&) = delete;
  virtual ~GpuTransfer() = default;

  // Pins that memory for the GPU until the transfer is closed; transfers of the process share what they pin.
  // Memory that somebody else has registered already is used as it is. REQUIRES: they keep it registered
  // until then.
  [[nodiscard]] virtual Status register_host(std::span<std::byte> memory) = 0;
  // The paged cache; replaces the one before. Refuses memory that is not this GPU's, and while batches are
  // under way (busy).
  [[nodiscard]] virtual Status set_layers(std::vector<PagedLayer> layers) = 0;

  // Batches of one direction are carried out in the order of their submission.
  [[nodiscard]] virtual Result<GpuTicket> submit(const PagedBatch& batch) = 0;
  // What has completed, in the order of the tickets of each direction.
  [[nodiscard]] virtual size_t poll(std::span<GpuCompletion> out) = 0;

  // Records that event of the caller's, again where it was recorded before, behind all batches of that
  // direction. io_error: after an error of CUDA.
  [[nodiscard]] virtual Status record(GpuDirection direction, ExternalEvent event) = 0;

  // Readable when poll() may find a completion, between prepare_wait() and done_wait(). After an error CUDA
  // may tell nothing: a sleeper looks again after look_ms_max at the latest.
  [[nodiscard]] virtual int event_fd() const = 0;
  virtual void prepare_wait() = 0;
  virtual void done_wait() = 0;
  static constexpr int look_ms_max = 20;

  // The one error of CUDA that ended this transfer; empty: none.
  [[nodiscard]] virtual const std::string& failure() const = 0;
};

}  // namespace kvpool
