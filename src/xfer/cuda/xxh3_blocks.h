// The checksum of src/base/checksum.h, XXH3 of 64 bits with a seed, for lengths that are multiples of 1 KiB,
// in steps that a warp of a GPU can share. XXH3 goes by blocks of 1 KiB, each of 16 stripes of 8 words, with
// 8 accumulators, one a word of a stripe. Within a block the stripes are added up, in any order; between
// blocks the accumulators are scrambled. So each of 32 threads has two words next to each other of two
// stripes of every block. The last stripe of all has keys of its own, and its block is not scrambled.
//
// Source: xxHash 0.8, XXH3_hashLong_64b_withSeed(), scalar.
//
// Plain arithmetic, for the CPU and for kernels; no thread, no failure.

#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define KVPOOL_ANYWHERE __host__ __device__
#else
#define KVPOOL_ANYWHERE
#endif

namespace kvpool::xxh3 {

inline constexpr uint32_t block_bytes = 1024;
inline constexpr uint32_t threads = 32;
inline constexpr uint32_t secret_words = 24;
inline constexpr uint32_t scramble_key = 128 / 8;  // words of the secret
inline constexpr uint32_t last_stripe_key = 121;   // bytes of the secret
inline constexpr uint32_t end_key = 11;

inline constexpr uint64_t prime32_1 = 0x9e3779b1;
inline constexpr uint64_t prime32_2 = 0x85ebca77;
inline constexpr uint64_t prime32_3 = 0xc2b2ae3d;
inline constexpr uint64_t prime64_1 = 0x9e3779b185ebca87;
inline constexpr uint64_t prime64_2 = 0xc2b2ae3d27d4eb4f;
inline constexpr uint64_t prime64_3 = 0x165667b19e3779f9;
inline constexpr uint64_t prime64_4 = 0x85ebca77c2b2ae63;
inline constexpr uint64_t prime64_5 = 0x27d4eb2f165667c5;
inline constexpr uint64_t prime_of_end = 0x165667919e3779f9;

// Words of the secret that all have in common, as a seed changes them.
struct Secret {
  uint64_t words[secret_words];
};
inline constexpr Secret common_secret = {
    {0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072, 0x78e5c0cc4ee679cb,
     0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0, 0xcb00c391bb52283c, 0xa32e531b8b65d088,
     0x4ef90da297486471, 0xd8acdea946ef1938, 0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a,
     0x647378d9c97e9fc8, 0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
     0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af}};

KVPOOL_ANYWHERE constexpr uint64_t seeded(uint64_t common_word, uint32_t number, uint64_t seed) {
  return number % 2 == 0 ? common_word + seed : common_word - seed;
}

// Eight bytes of the secret, from any of its bytes on.
KVPOOL_ANYWHERE constexpr uint64_t key_at(const uint64_t* secret, uint32_t byte) {
  const uint32_t bits = byte % 8 * 8;
  const uint64_t low = secret[byte / 8] >> bits;
  return bits == 0 ? low : low | secret[byte / 8 + 1] << (64 - bits);
}

// Two words of a stripe that are neighbours, the first of them an even one; or what accumulators get of them.
struct Pair {
  uint64_t even = 0;
  uint64_t odd = 0;
};

KVPOOL_ANYWHERE constexpr uint64_t product(uint64_t word, uint64_t key) {
  const uint64_t keyed = word ^ key;
  return (keyed & 0xffffffff) * (keyed >> 32);
}

// Each accumulator gets its word's product, and its neighbour's word.
KVPOOL_ANYWHERE constexpr Pair mix(const Pair& words, const Pair& keys) {
  return {product(words.even, keys.even) + words.odd, product(words.odd, keys.odd) + words.even};
}

KVPOOL_ANYWHERE constexpr uint64_t scramble(uint64_t accumulator, uint64_t key) {
  return (accumulator ^ accumulator >> 47 ^ key) * prime32_1;
}

// What a thread works with all the time: its two words are 2 (thread % 4) and the next one, its stripes
// thread / 4 and eight behind that.
struct ThreadKeys {
  Pair first;   // of its first stripe
  Pair second;  // of its second one
  Pair last;    // of its second one in the last block
  Pair between;
};

KVPOOL_ANYWHERE constexpr ThreadKeys keys_of(const uint64_t* secret, uint32_t thread) {
  const uint32_t word = thread % 4 * 2;
  const uint32_t stripe = thread / 4;
  ThreadKeys keys{.first = {secret[stripe + word], secret[stripe + word + 1]},
                  .second = {secret[stripe + 8 + word], secret[stripe + 8 + word + 1]},
                  .last = {},
                  .between = {secret[scramble_key + word], secret[scramble_key + word + 1]}};
  keys.last = keys.second;
  if (stripe == 7) {
    keys.last = {key_at(secret, last_stripe_key + word * 8), key_at(secret, last_stripe_key + word * 8 + 8)};
  }
  return keys;
}

KVPOOL_ANYWHERE constexpr Pair first_accumulators(uint32_t thread) {
  switch (thread % 4) {
    case 0:
      return {prime32_3, prime64_1};
    case 1:
      return {prime64_2, prime64_3};
    case 2:
      return {prime64_4, prime32_2};
    default:
      return {prime64_5, prime32_1};
  }
}

// A thread's part of a block, to be added up over the threads with the same words.
KVPOOL_ANYWHERE constexpr Pair part_of_block(const Pair& first, const Pair& second, const ThreadKeys& keys,
                                             bool is_last) {
  const Pair one = mix(first, keys.first);
  const Pair other = mix(second, is_last ? keys.last : keys.second);
  return {one.even + other.even, one.odd + other.odd};
}

// Of the last accumulators of one pair of words; the sum of the four is the end's.
KVPOOL_ANYWHERE constexpr uint64_t fold(const Pair& accumulators, const uint64_t* secret, uint32_t thread) {
  const uint32_t byte = end_key + thread % 4 * 16;
  const auto product = static_cast<unsigned __int128>(accumulators.even ^ key_at(secret, byte)) *
                       (accumulators.odd ^ key_at(secret, byte + 8));
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

KVPOOL_ANYWHERE constexpr uint64_t end(uint64_t folded, uint64_t length_bytes) {
  uint64_t hash = folded + length_bytes * prime64_1;
  hash ^= hash >> 37;
  hash *= prime_of_end;
  return hash ^ hash >> 32;
}

}  // namespace kvpool::xxh3
