/* A consumer as others write them: C, the public header alone, the shared library alone. Stores blocks in a
 * pool of memory, takes them back and compares. Exit status: 0 good, 1 not. */

#include <stdio.h>
#include <string.h>

#include "kvpool/kvpool.h"

enum { BLOCKS = 3, SEGMENTS = 2, SEGMENT_BYTES = 5000, WAIT_US = 10000000 };

/* The device's bandwidth is measured at open: a profile could be named, but this one is quickly done. */
static const char* const config =
    "[pool]\n"
    "buffers = \"1MiB\"\n"
    "[[device]]\n"
    "kind = \"memory\"\n"
    "size = \"4MiB\"\n";

static int failed(const char* what, kvpool_status status, const kvpool_error* error) {
  fprintf(stderr, "%s: %s %s\n", what, kvpool_status_string(status), error != NULL ? error->message : "");
  return 1;
}

/* Both ends of the one request under way; the result is returned. */
static kvpool_completion finish(kvpool_consumer* consumer, kvpool_ticket ticket) {
  kvpool_completion result;
  memset(&result, 0, sizeof result);
  result.status = KVPOOL_SYSTEM;
  for (;;) {
    kvpool_completion taken;
    if (kvpool_poll(consumer, &taken, 1) == 0) {
      kvpool_wait(consumer, WAIT_US);
      continue;
    }
    if (taken.ticket != ticket) continue;
    if (taken.kind == KVPOOL_RELEASE) return result;
    result = taken;
  }
}

static void fill(unsigned char* place, int block, int segment) {
  for (int i = 0; i < SEGMENT_BYTES; ++i) place[i] = (unsigned char)(i * 7 + block * 31 + segment * 101);
}

static int holds(const unsigned char* place, int block, int segment) {
  unsigned char wanted[SEGMENT_BYTES];
  fill(wanted, block, segment);
  return memcmp(place, wanted, sizeof wanted) == 0;
}

static int use(kvpool_consumer* consumer, uint32_t ns) {
  uint64_t bytes = 0;
  unsigned char* region = kvpool_region(consumer, &bytes);
  kvpool_key* keys = (kvpool_key*)region;
  uint64_t* addresses = (uint64_t*)(region + 1024);
  unsigned char* places = region + 4096;
  for (int block = 0; block < BLOCKS; ++block) {
    keys[block].high = 1;
    keys[block].low = (uint64_t)block + 1;
    for (int segment = 0; segment < SEGMENTS; ++segment) {
      const int i = block * SEGMENTS + segment;
      fill(places + i * SEGMENT_BYTES, block, segment);
      addresses[i] = kvpool_address(consumer, places + i * SEGMENT_BYTES);
    }
  }

  kvpool_request request = {.struct_size = sizeof request, .ns = ns, .keys = keys, .blocks = BLOCKS};
  request.buffers = addresses;
  kvpool_ticket ticket = 0;
  kvpool_status status = kvpool_store(consumer, &request, &ticket);
  if (status != KVPOOL_OK) return failed("store", status, NULL);
  kvpool_completion result = finish(consumer, ticket);
  if (result.status != KVPOOL_OK || result.blocks != BLOCKS) {
    return failed("stored", (kvpool_status)result.status, NULL);
  }

  memset(places, 0, BLOCKS * SEGMENTS * SEGMENT_BYTES);
  status = kvpool_retrieve(consumer, &request, &ticket);
  if (status != KVPOOL_OK) return failed("retrieve", status, NULL);
  result = finish(consumer, ticket);
  if (result.status != KVPOOL_OK || result.blocks != BLOCKS || result.segments != SEGMENTS) {
    return failed("retrieved", (kvpool_status)result.status, NULL);
  }
  for (int i = 0; i < BLOCKS * SEGMENTS; ++i) {
    if (!holds(places + i * SEGMENT_BYTES, i / SEGMENTS, i % SEGMENTS)) {
      fprintf(stderr, "block %d, segment %d: wrong bytes\n", i / SEGMENTS, i % SEGMENTS);
      return 1;
    }
  }
  return 0;
}

int main(void) {
  if (kvpool_abi_version() != KVPOOL_ABI_VERSION) return failed("another ABI", KVPOOL_UNSUPPORTED, NULL);
  kvpool_error error = {{0}};
  const kvpool_options options = {.struct_size = sizeof options, .config_toml = config};
  kvpool_pool* pool = NULL;
  kvpool_status status = kvpool_open(&options, &pool, &error);
  if (status != KVPOOL_OK) return failed("open", status, &error);

  const uint32_t segment_bytes[SEGMENTS] = {SEGMENT_BYTES, SEGMENT_BYTES};
  const kvpool_geometry geometry = {.struct_size = sizeof geometry,
                                    .name = "c",
                                    .block_tokens = 16,
                                    .segments = SEGMENTS,
                                    .segment_bytes = segment_bytes};
  uint32_t ns = 0;
  status = kvpool_namespace_open(pool, &geometry, &ns, &error);
  if (status != KVPOOL_OK) return failed("namespace", status, &error);

  const kvpool_consumer_options wanted = {.struct_size = sizeof wanted, .name = "c", .region_bytes = 65536};
  kvpool_consumer* consumer = NULL;
  status = kvpool_consumer_open(pool, &wanted, &consumer, &error);
  if (status != KVPOOL_OK) return failed("consumer", status, &error);

  int outcome = use(consumer, ns);
  status = kvpool_consumer_close(consumer, WAIT_US, &error);
  if (status != KVPOOL_OK) outcome = failed("closing the consumer", status, &error);
  status = kvpool_close(pool, WAIT_US, &error);
  if (status != KVPOOL_OK) outcome = failed("closing the pool", status, &error);
  return outcome;
}
