#include "lockstep/core/backend/shm/segment.h"

#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"

namespace lockstep::shm {

/// One allocation, as this rank maps it: everyone's parts, side by side.
struct Segment::Allocation {
  Allocation(io::SharedMemory shared, std::size_t at, std::size_t per_rank, int ranks, int own)
      : memory(std::move(shared)), offset(at), stride(per_rank), rank(own) {
    base = memory.map(offset, stride * static_cast<std::size_t>(ranks));
  }
  ~Allocation() {
    base.reset();
    memory.release(offset + stride * static_cast<std::size_t>(rank), stride);
  }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;

  std::byte* part(int of) const noexcept { return base.get() + stride * static_cast<std::size_t>(of); }

  io::SharedMemory memory;  // Its own descriptor: the allocation may outlive the group.
  std::size_t offset;
  std::size_t stride;
  int rank;
  std::shared_ptr<std::byte> base;
};

Segment::Segment(Store& store, const std::string& name, int rank, int world_size, Deadline deadline)
    : rank_(rank),
      world_size_(world_size),
      layout_(Layout::of(world_size)),
      next_offset_(round_up(layout_.nbytes, io::page_size())) {
  if (rank == 0) {
    create(store, name);
  } else {
    attach(store, name, deadline);
  }
  blocks_ = reinterpret_cast<RankBlock*>(base_.get() + layout_.blocks);
  staging_ = base_.get() + layout_.staging;
  announce();
  wait_for_all(name, deadline);
}

Segment::~Segment() { own().ready.store(2, std::memory_order_release); }

void Segment::create(Store& store, const std::string& name) {
  memory_ = std::make_unique<io::SharedMemory>(io::SharedMemory::create("lockstep:" + name));
  memory_->reserve(0, layout_.nbytes);
  base_ = memory_->map(0, layout_.nbytes);
  // Pages start as zero, which is what every counter starts from.
  header().magic = kMagic;
  header().world_size = static_cast<std::uint32_t>(world_size_);
  store.set("segment", memory_->handle());
}

void Segment::attach(Store& store, const std::string& name, Deadline deadline) {
  std::string handle;
  try {
    handle = store.get("segment", deadline);
  } catch (const TimeoutError&) {
    throw TimeoutError(base::cat("rank ", rank_, "/", world_size_, " group ", name, ": rank 0 did not arrive within ",
                                 seconds(deadline.timeout()), " s; check that it was started and runs on this host"),
                       0);
  }
  memory_ = std::make_unique<io::SharedMemory>(io::SharedMemory::attach(handle));
  base_ = memory_->map(0, layout_.nbytes);
  LS_REQUIRE(header().magic == kMagic && header().world_size == static_cast<std::uint32_t>(world_size_), "rank ", rank_,
             " group ", name, ": this rank was told a world size of ", world_size_, ", rank 0 one of ",
             header().world_size, "; start all ranks with one launcher");
}

void Segment::announce() {
  const base::CpuBudget budget = base::read_cpu_budget();
  RankBlock& block = own();
  block.pid = static_cast<std::uint32_t>(::getpid());
  block.cpu_quota = budget.quota;
  for (const int cpu : budget.cpus) {
    const auto index = static_cast<std::size_t>(cpu);
    if (index < kMaxCpus) block.cpus[index / 64] |= std::uint64_t{1} << index % 64;
  }
  block.ready.store(1, std::memory_order_release);
}

void Segment::wait_for_all(const std::string& name, Deadline deadline) {
  const auto missing = [this] {
    std::string ranks;
    for (int rank = 0; rank < world_size_; ++rank) {
      if (block(rank).ready.load(std::memory_order_acquire) == 0) ranks += base::cat(ranks.empty() ? "" : ", ", rank);
    }
    return ranks;
  };
  for (auto nap = std::chrono::microseconds(10); !missing().empty();
       nap = std::min(nap * 2, std::chrono::microseconds(2000))) {
    if (deadline.passed()) {
      throw TimeoutError(base::cat("rank ", rank_, "/", world_size_, " group ", name, ": waited ",
                                   seconds(deadline.timeout()), " s for rank(s) ", missing(),
                                   " to arrive; check that they were started"));
    }
    std::this_thread::sleep_for(nap);
  }
  for (int rank = 0; rank < world_size_; ++rank) {
    const RankBlock& peer = block(rank);
    RankCpus cpus;
    cpus.quota = peer.cpu_quota;
    for (std::size_t cpu = 0; cpu < kMaxCpus; ++cpu) {
      if ((peer.cpus[cpu / 64] >> cpu % 64 & 1) != 0) cpus.cpus.push_back(static_cast<int>(cpu));
    }
    cpus_.push_back(std::move(cpus));
    io::UniqueFd pidfd;
    if (peer.pid != static_cast<std::uint32_t>(::getpid())) {
      pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(peer.pid), 0)));
      // A peer that has ended already gets no descriptor, and gone() says so.
      if (!pidfd && errno != ESRCH) throw SystemError(base::cat("pidfd_open of rank ", rank), errno);
    }
    pidfds_.push_back(std::move(pidfd));
  }
}

bool Segment::gone(int rank) const {
  const RankBlock& peer = block(rank);
  if (peer.ready.load(std::memory_order_acquire) == 2) return true;
  if (peer.pid == static_cast<std::uint32_t>(::getpid())) return false;
  const io::UniqueFd& fd = pidfds_[static_cast<std::size_t>(rank)];
  if (!fd) return true;
  pollfd entry{fd.get(), POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

void Segment::reserve(std::size_t nbytes) {
  reserved_nbytes_ = round_up(std::max<std::size_t>(nbytes, 1), io::page_size());
  memory_->reserve(next_offset_ + reserved_nbytes_ * static_cast<std::size_t>(rank_), reserved_nbytes_);
}

BackendMemory Segment::map_reserved() {
  auto allocation =
      std::make_shared<Allocation>(memory_->duplicate(), next_offset_, reserved_nbytes_, world_size_, rank_);
  next_offset_ += reserved_nbytes_ * static_cast<std::size_t>(world_size_);
  allocations_.push_back(allocation);
  void* const data = allocation->part(rank_);
  return {std::move(allocation), data, reserved_nbytes_};
}

SharedAddress Segment::locate(const void* data, std::size_t nbytes) const noexcept {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  for (std::size_t index = allocations_.size(); index-- > 0;) {
    const auto allocation = allocations_[index].lock();
    if (!allocation) continue;
    const auto begin = reinterpret_cast<std::uintptr_t>(allocation->part(rank_));
    if (at >= begin && at + nbytes <= begin + allocation->stride) {
      return {static_cast<std::uint32_t>(index + 1), at - begin};
    }
  }
  return {};
}

std::byte* Segment::resolve(int rank, SharedAddress address) const noexcept {
  if (address.allocation == 0 || address.allocation > allocations_.size()) return nullptr;
  const auto allocation = allocations_[address.allocation - 1].lock();
  return allocation ? allocation->part(rank) + address.offset : nullptr;
}

}  // namespace lockstep::shm
