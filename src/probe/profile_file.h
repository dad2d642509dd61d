// The profile's file: JSON beside the configuration (kvpool.toml.profile.json), as docs/config.md has it.
// Any thread; blocks. What a file holds is never trusted: every number is checked, and an error says which.

#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "layout/profile.h"

namespace kvpool {

[[nodiscard]] Result<Profile> load_profile(const std::string& path);
// Whether save_profile() may write there and can; what holds no profile is not written over.
[[nodiscard]] Status check_profile_target(const std::string& path);
// Whoever reads `path` sees the old profile or the new one, never a part.
[[nodiscard]] Status save_profile(const std::string& path, const Profile& profile);

// `place` stands before what is wrong.
[[nodiscard]] Result<Profile> parse_profile(std::string_view json_text, const std::string& place);
[[nodiscard]] std::string to_json(const Profile& profile);

// The profile that lies at `path`: nothing where there is none, or where it is of other devices, which is
// logged. Of `devices` the names count, and what they would be measured as.
[[nodiscard]] Result<std::optional<Profile>> stored_profile(const std::string& path,
                                                            std::span<const DeviceProfile> devices);

// Says where a profile is not one of these devices, in this order: the configuration has changed since.
[[nodiscard]] Status check_profile_fits(const Profile& profile, std::span<const DeviceProfile> devices);

}  // namespace kvpool
