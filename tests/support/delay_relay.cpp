// delay_relay MICROSECONDS INTERFACE...: a switch between interfaces that holds each frame for a time.
//
// It learns behind which interface an address is from the frames that come from there, as any switch does; a frame to
// an address that it does not know goes to all others. Frames travel with their offload header, so that packets of up
// to 64 KiB pass whole and checksums that nobody has filled in yet stay so. Frames that come in faster than they go out
// are dropped by the kernel's buffers, as by any switch.
// It prints a line when it hears all of them.

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Address = std::array<unsigned char, ETH_ALEN>;

constexpr std::size_t kHeader = 10;  // bytes of a virtio_net_hdr; its C header does not compile as C++
constexpr std::size_t kLargestFrame = kHeader + ETH_HLEN + 65536;
constexpr int kSocketBuffer = 64 << 20;
constexpr int kTurn = 64;  // frames from one interface before the others are looked at

struct Frame {
  Clock::time_point due;
  std::size_t from;
  std::vector<char> bytes;  // the offload header, then the frame
};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "delay_relay: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

int open_interface(const char* name) {
  const int fd = ::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  const int on = 1;
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(name));
  if (address.sll_ifindex == 0 || ::setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) != 0 ||
      ::setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) != 0 ||
      ::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &kSocketBuffer, sizeof kSocketBuffer) != 0 ||
      ::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBuffer, sizeof kSocketBuffer) != 0 ||
      ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fail(name);
  }
  return fd;
}

class Relay {
 public:
  Relay(Clock::duration delay, std::vector<int> interfaces) : delay_(delay), interfaces_(std::move(interfaces)) {}

  [[noreturn]] void run() {
    std::vector<pollfd> entries;
    for (const int fd : interfaces_) entries.push_back({fd, POLLIN, 0});
    for (;;) {
      while (!held_.empty() && held_.front().due <= Clock::now()) {
        pass_on(held_.front());
        held_.pop_front();
      }
      timespec wait{};
      if (!held_.empty()) {
        const auto left = std::max(held_.front().due - Clock::now(), Clock::duration::zero());
        wait.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(left).count();
        wait.tv_nsec = (left % std::chrono::seconds(1)).count();
      }
      if (::ppoll(entries.data(), entries.size(), held_.empty() ? nullptr : &wait, nullptr) < 0 && errno != EINTR) {
        fail("poll");
      }
      for (std::size_t i = 0; i < entries.size(); ++i) {
        if (entries[i].revents != 0) take(i);
      }
    }
  }

 private:
  static Address address_at(const Frame& frame, std::size_t offset) {
    Address out;
    std::memcpy(out.data(), frame.bytes.data() + kHeader + offset, out.size());
    return out;
  }

  void take(std::size_t from) {
    for (int i = 0; i < kTurn; ++i) {
      const ssize_t got = ::recv(interfaces_[from], buffer_.data(), buffer_.size(), 0);
      // An interface that is down says so once; it works again when it is up.
      if (got < 0) return;
      if (static_cast<std::size_t>(got) < kHeader + ETH_HLEN) continue;
      held_.push_back({Clock::now() + delay_, from, {buffer_.data(), buffer_.data() + got}});
    }
  }

  void pass_on(const Frame& frame) {
    behind_[address_at(frame, ETH_ALEN)] = frame.from;
    const auto known = behind_.find(address_at(frame, 0));
    for (std::size_t to = 0; to < interfaces_.size(); ++to) {
      if (to == frame.from || (known != behind_.end() && known->second != to)) continue;
      // What does not go is lost, as on a wire: TCP sends it again.
      [[maybe_unused]] const ssize_t sent = ::send(interfaces_[to], frame.bytes.data(), frame.bytes.size(), 0);
    }
  }

  const Clock::duration delay_;
  const std::vector<int> interfaces_;
  std::map<Address, std::size_t> behind_;
  std::deque<Frame> held_;  // all for the same time, so the first to come is the first to go
  std::vector<char> buffer_ = std::vector<char>(kLargestFrame);
};

}  // namespace

int main(int argc, char** argv) {
  char* end = nullptr;
  const long delay_us = argc > 2 ? std::strtol(argv[1], &end, 10) : -1;
  if (delay_us < 0 || *end != '\0') {
    std::fprintf(stderr, "usage: delay_relay MICROSECONDS INTERFACE...\n");
    return 2;
  }
  ::prctl(PR_SET_TIMERSLACK, 1);  // ns
  std::vector<int> interfaces;
  for (int i = 2; i < argc; ++i) interfaces.push_back(open_interface(argv[i]));
  std::puts("ready");
  std::fflush(stdout);
  Relay(std::chrono::microseconds(delay_us), std::move(interfaces)).run();
}
