/* A pool from C: store two blocks, read them back. Build it against the library that `make` builds:
 *
 *   cc examples/plain.c -Iinclude -Lbuild/release -lkvpool -Wl,-rpath,$PWD/build/release -o build/plain
 */

#include <stdio.h>
#include <string.h>

#include "kvpool/kvpool.h"

enum { BLOCKS = 2, SEGMENTS = 4, SEGMENT_BYTES = 65536 };

static const char* const config =
    "[pool]\nbuffers = \"16MiB\"\nstaging = \"16MiB\"\n"
    "[[device]]\nkind = \"memory\"\nsize = \"16MiB\"\n"
    "[[device]]\nkind = \"file\"\npath = \"kvpool.data\"\nsize = \"16MiB\"\n";

/* Waits for both ends of the one request under way; the blocks of its result, or -1. */
static int finish(kvpool_consumer* consumer) {
  kvpool_completion completion;
  int blocks = -1;
  for (;;) {
    if (kvpool_poll(consumer, &completion, 1) == 0) {
      kvpool_wait(consumer, 1000000);
    } else if (completion.kind == KVPOOL_RELEASE) {
      return blocks;
    } else if (completion.status == KVPOOL_OK) {
      blocks = (int)completion.blocks;
    }
  }
}

int main(void) {
  kvpool_error error = {{0}};
  kvpool_options options = {.struct_size = sizeof options, .config_toml = config};
  kvpool_pool* pool = NULL;
  if (kvpool_open(&options, &pool, &error) != KVPOOL_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 2;
  }
  uint32_t segment_bytes[SEGMENTS];
  for (int i = 0; i < SEGMENTS; ++i) segment_bytes[i] = SEGMENT_BYTES;
  kvpool_geometry geometry = {
      .struct_size = sizeof geometry, .name = "demo", .block_tokens = 256, .segments = SEGMENTS};
  geometry.segment_bytes = segment_bytes;
  uint32_t ns = 0;
  kvpool_consumer_options wanted = {.struct_size = sizeof wanted, .name = "demo", .region_bytes = 1 << 20};
  kvpool_consumer* consumer = NULL;
  if (kvpool_namespace_open(pool, &geometry, &ns, &error) != KVPOOL_OK ||
      kvpool_consumer_open(pool, &wanted, &consumer, &error) != KVPOOL_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 2;
  }

  /* Keys, addresses and data lie in the consumer's memory. */
  unsigned char* region = kvpool_region(consumer, NULL);
  kvpool_key* keys = (kvpool_key*)region;
  uint64_t* addresses = (uint64_t*)(region + 1024);
  unsigned char* data = region + 4096;
  for (int block = 0; block < BLOCKS; ++block) {
    keys[block].high = 0;
    keys[block].low = (uint64_t)block + 1;
    for (int segment = 0; segment < SEGMENTS; ++segment) {
      const int i = block * SEGMENTS + segment;
      memset(data + i * SEGMENT_BYTES, 'a' + i, SEGMENT_BYTES);
      addresses[i] = kvpool_address(consumer, data + i * SEGMENT_BYTES);
    }
  }
  kvpool_request request = {
      .struct_size = sizeof request, .ns = ns, .keys = keys, .blocks = BLOCKS, .buffers = addresses};
  kvpool_ticket ticket = 0;
  if (kvpool_store(consumer, &request, &ticket) != KVPOOL_OK) return 1;
  printf("%d blocks stored\n", finish(consumer));

  memset(data, 0, BLOCKS * SEGMENTS * SEGMENT_BYTES);
  if (kvpool_retrieve(consumer, &request, &ticket) != KVPOOL_OK) return 1;
  const int blocks = finish(consumer);
  const unsigned char last = data[BLOCKS * SEGMENTS * SEGMENT_BYTES - 1];
  printf("%d blocks read, the last byte is '%c'\n", blocks, last);

  const int right = blocks == BLOCKS && last == 'a' + BLOCKS * SEGMENTS - 1;
  kvpool_consumer_close(consumer, 10000000, &error);
  return kvpool_close(pool, 10000000, &error) == KVPOOL_OK && right ? 0 : 1;
}
