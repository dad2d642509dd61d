/* kvpool: one pool of host memory and SSDs for KV caches. The C API.
 *
 * Objects.  A pool owns devices and the engine's thread. A consumer is one party that stores and retrieves:
 * a pair of bounded rings, and regions of memory that the pool may read and write. Requests are asynchronous:
 * a call puts one message into the ring and returns a ticket; kvpool_poll() takes completions out.
 *
 * Threads.  Pool functions may be called from any thread. A consumer belongs to one thread at a time; use one
 * consumer a thread. kvpool_consumer_close() may be called from another thread once the consumer's own thread
 * has gone.
 *
 * Buffers.  Keys and data lie in the consumer's regions. From a request until its RELEASE completion they
 * belong to the pool: a retrieve's destinations hold undefined bytes but for the segments that
 * kvpool_progress() reports, a store's sources must not change.
 *
 * Failure.  Nothing throws. What an operator should know (memory without huge pages, a device that failed, a
 * stalled ticket) is logged, a line each, on standard error; the environment's KVPOOL_LOG (debug, info, warn,
 * error, off) says how much. A function returns a kvpool_status; where it
 * takes a kvpool_error, the message says what was wrong, where, and what to do. Wrong bytes are never
 * delivered: a block whose bytes do not match their checksum is a miss. What is summed is up to `verify` in
 * the configuration: what comes from files and drives (the default), everything, or nothing.
 *
 * Versions.  KVPOOL_ABI_VERSION grows when a program compiled against an older header would break; within one
 * ABI version functions, constants and trailing struct fields are only added. Every struct that the caller
 * fills starts with struct_size = sizeof(it); the library takes missing trailing fields as zero and refuses
 * (KVPOOL_INVALID_ARGUMENT) non-zero bytes behind those that it knows. */

#ifndef KVPOOL_KVPOOL_H
#define KVPOOL_KVPOOL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVPOOL_ABI_VERSION 1
#define KVPOOL_VERSION_STRING "0.1.0"
#define KVPOOL_API __attribute__((visibility("default")))

/* The ABI version of the library in use, to be compared with KVPOOL_ABI_VERSION. */
KVPOOL_API uint32_t kvpool_abi_version(void);

typedef enum kvpool_status {
  KVPOOL_OK = 0,
  KVPOOL_MISS = 1,     /* nothing, or less than was asked, is in the pool; see the completion's counts */
  KVPOOL_BUSY = 2,     /* a bounded queue is full; take completions, then try again */
  KVPOOL_REJECTED = 3, /* not stored: no room that may be evicted, or the parent block is gone */
  KVPOOL_CANCELLED = 4,
  KVPOOL_TIMED_OUT = 5,
  KVPOOL_IO_ERROR = 6,
  KVPOOL_SHORT_IO = 7,
  KVPOOL_CORRUPT = 8,
  KVPOOL_INVALID_ARGUMENT = 9,
  KVPOOL_TOO_LARGE = 10,
  KVPOOL_IN_USE = 11,   /* another process has the device open */
  KVPOOL_NOT_OURS = 12, /* the file holds something that kvpool did not write; it was left alone */
  KVPOOL_UNSUPPORTED = 13,
  KVPOOL_CLOSED = 14,
  KVPOOL_SYSTEM = 15
} kvpool_status;

KVPOOL_API const char* kvpool_status_string(kvpool_status status);

/* Filled by functions that may fail for a reason worth words. */
typedef struct kvpool_error {
  char message[512];
} kvpool_error;

typedef struct kvpool_pool kvpool_pool;
typedef struct kvpool_consumer kvpool_consumer;

/* ---- the pool ---- */

/* Memory of the caller's own. */
typedef struct kvpool_memory {
  void* base;
  uint64_t bytes;
} kvpool_memory;

typedef struct kvpool_options {
  size_t struct_size;
  const char* config_path; /* a kvpool.toml; or */
  const char* config_toml; /* its text; exactly one of the two */
  /* Where consumers' regions of their own will lie (kvpool_region_add), for devices that are faster, or spare
   * a copy, where they know memory before. Its pages are pinned as long as the pool is open, so they must not
   * be unmapped, or replaced (MADV_DONTNEED), before. What cannot be told a device works all the same. At
   * most 16. */
  const kvpool_memory* memory;
  uint32_t memory_count;
} kvpool_options;

/* Opens every device and starts the engine. All input is validated before any device is touched. The pool is
 * empty: what a file held of an earlier one is discarded. Blocks while memory is prepared and, where no
 * profile is stored, while each device is measured for up to a second. */
KVPOOL_API kvpool_status kvpool_open(const kvpool_options* options, kvpool_pool** pool, kvpool_error* error);

/* Cancels what is under way, waits up to timeout_us for the devices to be done, and frees everything.
 * KVPOOL_TIMED_OUT: a device still holds buffers; error names it, and the call may be repeated; nothing else
 * may be called, since consumers that were still open are closed one by one and may be gone. */
KVPOOL_API kvpool_status kvpool_close(kvpool_pool* pool, uint64_t timeout_us, kvpool_error* error);

/* What makes two caches interchangeable, and the shape of its blocks. */
typedef struct kvpool_geometry {
  size_t struct_size;
  const char* name; /* 1 to 512 bytes: model, revision, dtype, layout, rank, salt, what must not be mixed */
  uint32_t block_tokens;
  uint32_t segments;             /* segments of a block, layers as a rule */
  const uint32_t* segment_bytes; /* [segments] */
  const uint8_t* window;         /* [segments], 1: needed in a run's last block alone; NULL: none */
  uint32_t flat;                 /* 1: parents are unknown, blocks stand alone */
} kvpool_geometry;

/* Finds the namespace of that name, or makes it. KVPOOL_INVALID_ARGUMENT if it exists with another shape. */
KVPOOL_API kvpool_status kvpool_namespace_open(kvpool_pool* pool, const kvpool_geometry* geometry,
                                               uint32_t* ns, kvpool_error* error);
/* Finds a namespace that the configuration or kvpool_namespace_open() made. KVPOOL_MISS: none. */
KVPOOL_API kvpool_status kvpool_namespace_find(kvpool_pool* pool, const char* name, uint32_t* ns);

typedef struct kvpool_stats {
  size_t struct_size;
  uint64_t ready_blocks, live_bytes;
  uint64_t stored_blocks, stored_bytes, retrieved_blocks, retrieved_bytes;
  uint64_t evicted_blocks, removed_blocks, retired_blocks, spilled_segments, spilled_bytes;
  uint64_t busy_requests, rejected_blocks, timed_out_requests, cancelled_requests, invalid_requests;
  uint64_t io_errors, short_ios, checksum_errors, stalled_tickets;
  uint64_t tickets_under_way, pins_held;
  double catalog_bytes_per_block; /* without checksums */
  /* Copied between a drive's buffer and a consumer's, for want of alignment; 0 where all are aligned. */
  uint64_t bounced_bytes;
} kvpool_stats;

typedef struct kvpool_device_stats {
  size_t struct_size;
  char name[64];
  uint64_t size_bytes, used_bytes;
  uint64_t read_bytes, written_bytes, reads, writes, errors;
  uint64_t busy_us;             /* time with at least one request in flight */
  double planned_share;         /* of each block's segments, 0 to 1 */
  double read_bytes_per_second; /* by the profile */
  double write_bytes_per_second;
  uint64_t discarded_bytes; /* that the device was advised to drop */
  uint32_t in_memory;       /* 1: it is memory, which is read in place */
} kvpool_device_stats;

/* Snapshots, at most a few milliseconds old. Any thread. */
KVPOOL_API kvpool_status kvpool_get_stats(kvpool_pool* pool, kvpool_stats* stats);
KVPOOL_API uint32_t kvpool_device_count(kvpool_pool* pool);
KVPOOL_API kvpool_status kvpool_get_device_stats(kvpool_pool* pool, uint32_t device,
                                                 kvpool_device_stats* stats);

/* Where the pool's memory lies, for whoever registers it once with what reads it by DMA, a GPU say: its
 * memory devices, to which KVPOOL_IN_PLACE points, every consumer's region 0, and staging; not memory of the
 * caller's own. Each starts at a multiple of 2 MiB. They, and the pages behind them, stay the same until
 * kvpool_close(), before which they are to be deregistered. Writes up to max of them (ranges may be NULL if
 * max is 0); returns how many there are. Any thread. */
KVPOOL_API uint32_t kvpool_memory_ranges(kvpool_pool* pool, kvpool_memory* ranges, uint32_t max);

/* ---- measuring ---- */

typedef struct kvpool_probe_options {
  size_t struct_size;
  uint64_t per_device_us; /* the most that one device may take, alone; 0: 10 s; at most an hour */
  uint64_t together_us;   /* reading from all at once; 0: not measured; at most an hour */
  uint32_t sweep;         /* 1: over sizes and queue depths too */
  uint32_t save;          /* 1: as the profile of the configuration, which kvpool_open() then uses */
} kvpool_probe_options;

/* Measures the devices of a configuration; no pool may have them open (KVPOOL_IN_USE), and what they held is
 * overwritten. Blocks; any thread. The result is written to json, zero-terminated: one object, its members in
 * docs/cli.md (probe). *needed, which may be NULL, is set to its bytes with the zero; below 256 KiB for 16
 * devices. KVPOOL_TOO_LARGE: capacity is less; json is empty, the profile was saved if asked for.
 * KVPOOL_IO_ERROR, KVPOOL_SHORT_IO, KVPOOL_TIMED_OUT: a device failed; error names it, nothing was saved. */
KVPOOL_API kvpool_status kvpool_probe(const kvpool_options* options,
                                      const kvpool_probe_options* probe_options, char* json, size_t capacity,
                                      size_t* needed, kvpool_error* error);

/* ---- consumers ---- */

typedef struct kvpool_consumer_options {
  size_t struct_size;
  const char* name;      /* for logs */
  uint64_t region_bytes; /* memory to take from the pool's arena as region 0; may be 0, or UINT64_MAX: the
                            largest piece that is left */
} kvpool_consumer_options;

/* KVPOOL_BUSY: limits.consumers are open. KVPOOL_TOO_LARGE: the arena has less left (`buffers` in the
 * configuration). */
KVPOOL_API kvpool_status kvpool_consumer_open(kvpool_pool* pool, const kvpool_consumer_options* options,
                                              kvpool_consumer** consumer, kvpool_error* error);

/* Cancels its requests, waits for their release, drops its pins. KVPOOL_TIMED_OUT: a device still holds
 * buffers; the call may be repeated. */
KVPOOL_API kvpool_status kvpool_consumer_close(kvpool_consumer* consumer, uint64_t timeout_us,
                                               kvpool_error* error);

/* Region 0: huge pages where the system has them, registered with every device, 4096-byte aligned. */
KVPOOL_API void* kvpool_region(kvpool_consumer* consumer, uint64_t* bytes);

/* Makes the caller's own memory a region; it must outlive the consumer. Slower than region 0 where devices
 * want registered memory, unless it was named in kvpool_options. At most 15 of them. */
KVPOOL_API kvpool_status kvpool_region_add(kvpool_consumer* consumer, void* base, uint64_t bytes);

/* How requests spell an address: region << 48 | offset. UINT64_MAX: not inside any region. */
KVPOOL_API uint64_t kvpool_address(kvpool_consumer* consumer, const void* pointer);

/* ---- requests ---- */

typedef struct kvpool_key {
  uint64_t high, low;
} kvpool_key;

/* What a segment's bytes must be: their XXH3, 64 bits, with that seed. */
typedef struct kvpool_check {
  uint64_t seed, sum;
} kvpool_check;

typedef uint64_t kvpool_pin;    /* 0: none */
typedef uint64_t kvpool_ticket; /* never 0 */

enum {
  KVPOOL_PIN = 1,      /* match: hold the run; the completion's pin is redeemable by any consumer */
  KVPOOL_TAKE_PIN = 2, /* retrieve, stage: give the pin back at release, whatever happens but BUSY */
  KVPOOL_IN_PLACE = 4, /* retrieve of a pin: what lies in pool memory is not copied, see kvpool_retrieve() */
  KVPOOL_UNSUMMED = 8, /* in place, with checks: nor is it summed, since the caller does that */
};

/* One struct for every kind of request; each function says which fields it reads. keys and buffers must lie
 * in the consumer's regions. */
typedef struct kvpool_request {
  size_t struct_size;
  uint64_t user_data; /* comes back in the completions */
  uint32_t ns;
  uint32_t flags;
  const kvpool_key* keys; /* [blocks] */
  uint32_t blocks;
  uint32_t has_parent; /* chained namespaces: keys[0] follows `parent`; 0: it is a root */
  kvpool_key parent;
  const uint64_t* buffers; /* [blocks][segment_count] addresses made by kvpool_address(). Of a window segment
                              a retrieve fills one, the last block's; where a bad block shortens the run
                              that is an earlier block's, so all of them must be valid.
                              A retrieve's buffers do not overlap, nor those of requests under way. */
  uint32_t segment_first;  /* retrieve: segments [segment_first, segment_first + segment_count) */
  uint32_t segment_count;  /* 0: all of them */
  kvpool_pin pin;
  uint32_t block_first; /* retrieve of a pin: blocks [block_first, block_first + blocks) of its run */
  uint64_t timeout_us;  /* 0: the configuration's deadline */
  const void** places;  /* retrieve with KVPOOL_IN_PLACE: [blocks][segment_count], written by the pool; in the
                           consumer's regions, 8-byte aligned, overlapping nothing else */
  kvpool_check* checks; /* null, or like places: what the bytes there must be */
} kvpool_request;

/* Every function below returns KVPOOL_OK and the ticket, or KVPOOL_BUSY (nothing was sent), or
 * KVPOOL_INVALID_ARGUMENT (nothing was sent), or KVPOOL_CLOSED (the pool closed this
 * consumer, which broke the rules of its rings). Each ticket gets one RESULT and one RELEASE completion. */

/* The longest run of stored blocks that starts at keys[0]. Reads ns, keys, blocks, parent, flags (PIN).
 * Result: blocks matched, bytes and estimate_us of a retrieve of them, pin. */
KVPOOL_API kvpool_status kvpool_match(kvpool_consumer*, const kvpool_request*, kvpool_ticket*);

/* Brings blocks into buffers: those of a pin (pin, block_first, blocks; the pin must outlive the request or
 * be given along), or without a pin the longest stored run of keys. Result, by the deadline at the latest:
 * status, and what is complete: the leading `segments` segments asked for of the leading `blocks` blocks,
 * `bytes` in all. OK: everything. MISS: all segments, of fewer blocks. TIMED_OUT, CANCELLED: perhaps fewer
 * segments. Release: the pool is done with keys and buffers.
 *
 * With KVPOOL_IN_PLACE segments that lie in memory devices are not copied: `places` gets their addresses,
 * once they are verified where they lie, as `verify` says. Segments from files and drives come into their
 * buffers as ever, and their places are NULL. A place may be read once kvpool_progress() or the result
 * reports its segment; what else stands in the array means nothing, and a request that is refused writes
 * nothing. From the request to its release `places` and `checks` are the pool's. The buffer of a segment in
 * memory is neither looked at nor written. But which segments those are `places` says afterwards (all of
 * them, where kvpool_stage() has brought this pin's run into memory), so buffers are wanted for all.
 *
 * The bytes at a place are to be read only. They stay where and what they are until the pin is given back, by
 * kvpool_unpin(), by anybody's request with KVPOOL_TAKE_PIN, or as its holder closes or is closed, whatever
 * becomes of the request and of the block: whoever reads them, a GPU's copy engine too, must be done by then.
 * So the request must name a pin, and must not give it along (KVPOOL_TAKE_PIN): KVPOOL_INVALID_ARGUMENT.
 *
 * With `checks` the pool says of each place what its bytes must be; 0 and 0 where `verify` asks for no check
 * of memory. An entry means something where its place does. With KVPOOL_UNSUMMED, too, it does not sum them
 * itself: that is then the caller's, who may do so where he has copied them to. Where he finds them to be
 * something else he retrieves the blocks again without that flag: the pool then looks itself, and gives a bad
 * block up. */
KVPOOL_API kvpool_status kvpool_retrieve(kvpool_consumer*, const kvpool_request*, kvpool_ticket*);

/* Stores blocks that follow each other; those already stored count as stored. Reads ns, keys, blocks, parent,
 * buffers (all segments). Result, when all are visible or have failed: blocks = the number of leading blocks
 * that are in the pool. */
KVPOOL_API kvpool_status kvpool_store(kvpool_consumer*, const kvpool_request*, kvpool_ticket*);

/* Brings a pinned run into pool memory and keeps it there while it is pinned. Reads pin, block_first, blocks,
 * flags. Result: blocks (leading ones now wholly in memory). */
KVPOOL_API kvpool_status kvpool_stage(kvpool_consumer*, const kvpool_request*, kvpool_ticket*);

/* The time that a retrieve of a pinned run would take now, queues included: estimate_us. Reads pin. */
KVPOOL_API kvpool_status kvpool_estimate(kvpool_consumer*, const kvpool_request*, kvpool_ticket*);

/* Removes blocks and all that follow them; those in use go when their pins do. Reads ns, keys, blocks.
 * Result: blocks = how many were removed, descendants included. */
KVPOOL_API kvpool_status kvpool_delete(kvpool_consumer*, const kvpool_request*, kvpool_ticket*);

/* Gives a pin back. Reads pin. */
KVPOOL_API kvpool_status kvpool_unpin(kvpool_consumer*, const kvpool_request*, kvpool_ticket*);

/* Ends a request of this consumer as if its deadline were now; its two completions come as always. A ticket
 * that has ended already is no error. */
KVPOOL_API kvpool_status kvpool_cancel(kvpool_consumer*, kvpool_ticket ticket);

enum { KVPOOL_RESULT = 1, KVPOOL_RELEASE = 2 };

typedef struct kvpool_completion {
  uint64_t user_data;
  kvpool_ticket ticket;
  uint32_t kind;  /* KVPOOL_RESULT, then KVPOOL_RELEASE */
  int32_t status; /* kvpool_status */
  uint32_t blocks;
  uint32_t
      segments; /* of a retrieve: leading segments of those asked for that are complete in `blocks` blocks */
  uint64_t bytes;
  kvpool_pin pin;
  uint64_t estimate_us;
} kvpool_completion;

/* Takes up to max completions; returns how many. Never blocks. */
KVPOOL_API uint32_t kvpool_poll(kvpool_consumer*, kvpool_completion* out, uint32_t max);

/* Sleeps until a completion or progress may be there, or timeout_us have passed. */
KVPOOL_API void kvpool_wait(kvpool_consumer*, uint64_t timeout_us);

/* For event loops: readable when a completion may be there, once kvpool_arm() has returned 1. kvpool_arm()
 * returns 0 if one is there already. */
KVPOOL_API int kvpool_event_fd(kvpool_consumer*);
KVPOOL_API int kvpool_arm(kvpool_consumer*);

/* Of a retrieve under way: how many leading segments of those asked for are complete in every block that was
 * promised when they became so; a window segment, in the last of these. Only grows; the result has the last
 * word when a bad block has shortened the run. Costs one load. */
KVPOOL_API uint32_t kvpool_progress(kvpool_consumer*, kvpool_ticket ticket);

#ifdef __cplusplus
}
#endif

#endif
