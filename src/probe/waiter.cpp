#include "probe/waiter.h"

#include <poll.h>

#include <algorithm>
#include <array>

#include "base/assert.h"
#include "base/ids.h"

namespace kvpool {

void PollWaiter::wait(std::span<Device* const> devices, const Transfer& transfer, Nanos until) {
  KVPOOL_ASSERT(devices.size() <= devices_max);
  std::array<pollfd, devices_max + 1> descriptors{};
  size_t count = 0;
  Nanos wake_at = std::min(until, transfer.next_event_time());
  const auto add = [&](int fd) {
    if (fd >= 0) descriptors[count++] = {.fd = fd, .events = POLLIN, .revents = 0};
  };
  add(transfer.wait_fd());
  for (const Device* device : devices) {
    add(device->wait_fd());
    wake_at = std::min(wake_at, device->next_event_time());
  }
  if (!sleeper_.is_near(wake_at)) sleeper_.sleep(std::span(descriptors).first(count), wake_at);
}

}  // namespace kvpool
