#include "connectors/lmcache/stored_keys.h"

#include <gtest/gtest.h>

#include "base/prng.h"

namespace kvpool::lmcache {
namespace {

constexpr uint32_t lengths = 200;  // more than have a bit of their own
constexpr uint32_t keys = 100'000;

kvpool_key key_of(uint64_t number) { return {.high = mix64(~number), .low = mix64(number)}; }

TEST(StoredKeysTest, ForgetsNothing) {
  StoredKeys stored;
  for (uint32_t i = 0; i < keys; ++i) stored.note(key_of(i), i % lengths);
  for (uint32_t i = 0; i < keys; ++i) EXPECT_TRUE(stored.may_have(key_of(i), i % lengths));
}

TEST(StoredKeysTest, KnowsMostThatWereNeverStored) {
  StoredKeys stored;
  for (uint32_t i = 0; i < keys; ++i) stored.note(key_of(i), i % lengths);
  uint32_t taken_for_stored = 0;
  for (uint32_t i = 0; i < keys; ++i)
    taken_for_stored += stored.may_have(key_of(keys + i), i % lengths) ? 1 : 0;
  EXPECT_LT(taken_for_stored, keys / 100);
}

}  // namespace
}  // namespace kvpool::lmcache
