#include "probe/profile_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "base/prng.h"
#include "base/text_file.h"

namespace kvpool {
namespace {

Profile two_devices() {
  Profile profile;
  profile.measured_at = "2026-01-02T03:04:05Z";
  profile.conditions = "a \"machine\", 4 KiB pages";
  profile.link_bytes_per_second = 6.25e9;
  DeviceProfile& memory = profile.devices.emplace_back();
  memory.name = "memory0";
  memory.measured_as = "memory";
  memory.read_bytes_per_second = 5.5e9;
  memory.write_bytes_per_second = 5e9;
  memory.together_bytes_per_second = 5.1e9;
  memory.read_latency = std::chrono::microseconds(150);
  memory.write_latency = std::chrono::microseconds(160);
  memory.queue_bytes = 1 << 20;
  DeviceProfile& file = profile.devices.emplace_back(memory);
  file.name = "file0";
  file.measured_as = "file /x, limit_read 9 B/s";
  file.read_bytes_per_second = 2.3456789e9;
  file.storage = true;
  return profile;
}

void expect_equal(const Profile& a, const Profile& b) {
  // The text has every field.
  EXPECT_EQ(to_json(a), to_json(b));
  ASSERT_EQ(a.devices.size(), b.devices.size());
  EXPECT_EQ(a.devices[1].read_bytes_per_second, b.devices[1].read_bytes_per_second);
  EXPECT_EQ(a.devices[1].read_latency, b.devices[1].read_latency);
  EXPECT_EQ(a.devices[1].storage, b.devices[1].storage);
}

std::string error_of(const std::string& text) {
  const auto profile = parse_profile(text, "p");
  return profile ? "no error" : profile.error().message;
}

// The good text with one part replaced.
std::string with(const std::string& from, const std::string& to) {
  std::string text = to_json(two_devices());
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(ProfileFile, IsReadAsItWasWritten) {
  std::string folder = testing::TempDir() + "kvpool_profile_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/kvpool.toml.profile.json";
  ASSERT_TRUE(save_profile(path, two_devices()));
  const auto loaded = load_profile(path);
  ASSERT_TRUE(loaded) << loaded.error().message;
  expect_equal(two_devices(), *loaded);

  // What cannot be read back replaces nothing.
  Profile broken = two_devices();
  broken.devices[0].read_bytes_per_second = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(save_profile(path, broken));
  broken.devices[0].read_bytes_per_second = 0;
  EXPECT_FALSE(save_profile(path, broken));
  EXPECT_TRUE(load_profile(path));
  std::filesystem::remove_all(folder);
}

TEST(ProfileFile, StoredProfileIsFoundWhereItIsOfTheseDevices) {
  std::string folder = testing::TempDir() + "kvpool_profile_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/kvpool.toml.profile.json";
  const std::vector<DeviceProfile> same = two_devices().devices;
  std::vector<DeviceProfile> others = same;
  others[1].name = "file1";
  const auto none_yet = stored_profile(path, same);
  ASSERT_TRUE(none_yet);
  EXPECT_FALSE(none_yet->has_value());
  ASSERT_TRUE(save_profile(path, two_devices()));
  const auto found = stored_profile(path, same);
  ASSERT_TRUE(found);
  ASSERT_TRUE(found->has_value());
  expect_equal(two_devices(), **found);
  const auto of_others = stored_profile(path, others);
  ASSERT_TRUE(of_others);
  EXPECT_FALSE(of_others->has_value());
  ASSERT_TRUE(replace_text_file(path, "{"));
  EXPECT_FALSE(stored_profile(path, same));
  std::filesystem::remove_all(folder);
}

TEST(ProfileFile, SaysWhatIsWrong) {
  EXPECT_EQ(error_of("{"),
            "p: not a profile: it is not JSON; `kvpool probe` writes one where nothing else lies");
  EXPECT_EQ(error_of("{\"read_bytes_per_second\""),
            "p: not a profile: it is not JSON; `kvpool probe` writes a new one");
  EXPECT_EQ(error_of("[]").substr(0, 35), "p: not a profile: it is not an obje");
  EXPECT_EQ(error_of("{}").substr(0, 44), "p: not a profile: 'schema_version' is missin");
  const auto expect = [](const std::string& text, const std::string& part) {
    EXPECT_NE(error_of(text).find(part), std::string::npos) << error_of(text);
  };
  expect(with("\"schema_version\": 1", "\"schema_version\": 2"), "schema_version is 2, known is 1");
  expect(with("6250000000.0", "-1"), "'link_bytes_per_second' is not from 0 to");
  expect(with("5500000000.0", "0"), "'devices[0].read_bytes_per_second' is not from 1");
  expect(with("5500000000.0", "1e16"), "'devices[0].read_bytes_per_second' is not from 1");
  expect(with("5500000000.0", "\"x\""), "'devices[0].read_bytes_per_second' is not a number");
  expect(with("150000", "-5"), "'devices[0].read_latency_ns' is not a whole number");
  expect(with("150000", "60000000001"), "'devices[0].read_latency_ns' is not a whole number");
  expect(with("\"storage\": true", "\"storage\": 1"), "'devices[1].storage' is not true or false");
  expect(with("\"name\": \"file0\"", "\"nam\": 1"), "'devices[1].name' is missing");
  expect(R"({"schema_version":1,"measured_at":"","conditions":"","link_bytes_per_second":0,"devices":[]})",
         "0 devices");
  expect(R"({"schema_version":1,"measured_at":"","conditions":"","link_bytes_per_second":0,"devices":[7]})",
         "'devices[0].' is not an object");
}

TEST(ProfileFile, MutatedTextIsRefusedOrReadAsWhatCanBe) {
  const std::string good = to_json(two_devices());
  constexpr std::string_view bytes = "{}[]\",:-+.e0123456789truefalsnl\\u \n\xFF";
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    Prng prng(seed);
    std::string text = good;
    for (uint64_t steps = prng.between(1, 3); steps > 0; --steps) {
      const size_t at = prng.below(text.size());
      if (prng.chance(0.3)) {
        text.erase(at, prng.between(1, 30));
        if (text.empty()) text = good;
      } else {
        text[at] = bytes[prng.below(bytes.size())];
      }
    }
    const auto profile = parse_profile(text, "p");
    if (!profile) continue;
    ASSERT_TRUE(parse_profile(to_json(*profile), "p")) << "seed " << seed << "\n" << text;
    for (const DeviceProfile& device : profile->devices) {
      ASSERT_GE(device.read_bytes_per_second, 1) << "seed " << seed;
      ASSERT_TRUE(std::isfinite(device.together_bytes_per_second)) << "seed " << seed;
    }
  }
}

TEST(ProfileFile, DeepNestingIsRefused) { EXPECT_NE(error_of(std::string(500'000, '[')), "no error"); }

TEST(ProfileFile, FitsTheDevicesItWasMeasuredOn) {
  const Profile profile = two_devices();
  std::vector<DeviceProfile> devices = profile.devices;
  EXPECT_TRUE(check_profile_fits(profile, devices));
  devices[1].measured_as = "file /x";  // the cap is gone: the device may be faster than was measured
  EXPECT_EQ(check_profile_fits(profile, devices).error().message,
            "the profile is of memory0 (memory); file0 (file /x, limit_read 9 B/s), the configuration has "
            "memory0 (memory); file0 (file /x); `kvpool probe` writes a new one");
  Profile by_hand = profile;  // says nothing of what it was measured on
  by_hand.devices[1].measured_as.clear();
  EXPECT_TRUE(check_profile_fits(by_hand, devices));
  std::swap(devices[0], devices[1]);
  EXPECT_FALSE(check_profile_fits(by_hand, devices));
  devices.pop_back();
  EXPECT_FALSE(check_profile_fits(by_hand, devices));
}

}  // namespace
}  // namespace kvpool
