#include "xfer/cuda/xxh3_blocks.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

#include "base/checksum.h"
#include "base/prng.h"

namespace kvpool {
namespace {

// Each of a warp's threads, one after the other.
uint64_t sum_as_a_warp(std::span<const std::byte> bytes, uint64_t seed) {
  std::array<uint64_t, xxh3::secret_words> secret{};
  for (uint32_t i = 0; i < secret.size(); ++i)
    secret[i] = xxh3::seeded(xxh3::common_secret.words[i], i, seed);
  const auto words_at = [&](size_t byte) {
    xxh3::Pair words;
    std::memcpy(&words, &bytes[byte], sizeof words);
    return words;
  };
  uint64_t folded = 0;
  for (uint32_t pair = 0; pair < 4; ++pair) {
    xxh3::Pair sums = xxh3::first_accumulators(pair);
    for (size_t block = 0; block < bytes.size(); block += xxh3::block_bytes) {
      const bool is_last = block + xxh3::block_bytes == bytes.size();
      for (uint32_t thread = pair; thread < xxh3::threads; thread += 4) {
        const size_t first = block + size_t{thread} * 16;
        const xxh3::Pair part = xxh3::part_of_block(words_at(first), words_at(first + 512),
                                                    xxh3::keys_of(secret.data(), thread), is_last);
        sums.even += part.even;
        sums.odd += part.odd;
      }
      if (is_last) continue;
      const xxh3::Pair keys = xxh3::keys_of(secret.data(), pair).between;
      sums = {xxh3::scramble(sums.even, keys.even), xxh3::scramble(sums.odd, keys.odd)};
    }
    folded += xxh3::fold(sums, secret.data(), pair);
  }
  return xxh3::end(folded, bytes.size());
}

TEST(Xxh3Blocks, AreTheChecksum) {
  Prng random(1);
  for (const size_t kib : {1, 2, 3, 16, 31, 64, 1024}) {
    std::vector<std::byte> bytes(kib * 1024);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
    for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, random.next(), UINT64_MAX}) {
      EXPECT_EQ(sum_as_a_warp(bytes, seed), checksum(bytes, seed)) << kib << " KiB, seed " << seed;
    }
  }
}

}  // namespace
}  // namespace kvpool
