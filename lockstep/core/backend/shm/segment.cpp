#include "lockstep/core/backend/shm/segment.h"

#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <thread>

#include "lockstep/core/backend/in_flight.h"
#include "lockstep/core/backend/meeting.h"
#include "lockstep/core/backend/shm/measure.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"

namespace lockstep::shm {

/// What an operation asks of an allocation, of every rank's part. Kept when that has gone: a weak pointer would do,
/// but each look through it costs two locked instructions, and a call looks six times.
struct Segment::Mapping {
  std::atomic<bool> alive{true};
  std::size_t nbytes = 0;         // Of each part.
  std::vector<std::byte*> parts;  // As mapped here.
};

/// One allocation, as this rank maps it: everyone's parts.
struct Segment::Allocation {
  Allocation(io::SharedMemory shared, const Reserved& reserved, int ranks, int own)
      : memory(std::move(shared)), offset(reserved.part(own)), mapping(std::make_shared<Mapping>()) {
    mapping->nbytes = reserved.nbytes;
    for (int rank = 0; rank < ranks; ++rank) {
      parts.push_back(memory.map(reserved.part(rank), reserved.nbytes));
      mapping->parts.push_back(parts.back().get());
    }
  }
  ~Allocation() {
    mapping->alive.store(false, std::memory_order_release);
    parts.clear();
    memory.release(offset, mapping->nbytes);
  }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;

  io::SharedMemory memory;  // Its own descriptor: the allocation may outlive the group.
  std::size_t offset;       // Of this rank's part.
  std::vector<std::shared_ptr<std::byte>> parts;
  std::shared_ptr<Mapping> mapping;
};

namespace {

/// Where the group forms inside another, its rank 0 may have given up because that one failed, and its memory is gone:
/// the others hear of the cause a moment later.
io::SharedMemory attach_patiently(const std::string& handle, const Meeting& meeting) {
  const Deadline patience = Deadline::after(std::chrono::seconds(meeting.while_waiting ? 1 : 0));
  for (Naps naps(meeting);; naps.nap()) {
    try {
      return io::SharedMemory::attach(handle);
    } catch (const Error&) {
      if (patience.passed()) throw;
    }
  }
}

}  // namespace

Segment::Segment(Store& store, const Meeting& meeting)
    : rank_(meeting.rank),
      world_size_(meeting.world_size),
      layout_(Layout::of(world_size_)),
      has_ring_(static_cast<std::size_t>(world_size_)),
      next_offset_(round_up(layout_.nbytes, io::page_size())) {
  if (rank_ == 0) {
    create(store, meeting.group);
  } else {
    attach(store, meeting);
  }
  blocks_ = reinterpret_cast<RankBlock*>(base_.get() + layout_.blocks);
  channels_ = reinterpret_cast<Channel*>(base_.get() + layout_.channels);
  staging_ = base_.get() + layout_.staging;
  rings_ = base_.get() + layout_.rings;
  announce();
  try {
    wait_for_all(meeting);
    open_pidfds();
    agree_on_constants(meeting);
  } catch (...) {
    // Those who come to a group without this rank must not wait for it.
    own().ready.store(2, std::memory_order_release);
    throw;
  }
  // All have it: the store need not grow with the number of groups.
  if (rank_ == 0) store.erase("segment");
}

Segment::~Segment() { own().ready.store(2, std::memory_order_release); }

void Segment::create(Store& store, const std::string& name) {
  memory_ = std::make_unique<io::SharedMemory>(io::SharedMemory::create("lockstep:" + name));
  memory_->reserve(0, layout_.staging);
  base_ = memory_->map(0, layout_.nbytes);
  // Pages start as zero, which is what every counter starts from.
  header().magic = kMagic;
  header().world_size = static_cast<std::uint32_t>(world_size_);
  store.set("segment", memory_->handle());
}

void Segment::attach(Store& store, const Meeting& meeting) {
  const std::string& name = meeting.group;
  std::optional<std::string> handle;
  // A rank with nothing else to look after leaves the waiting to the store.
  const bool alone = !meeting.while_waiting && InFlightList::of_this_thread().empty();
  try {
    if (alone) handle = store.get("segment", meeting.deadline);
  } catch (const TimeoutError&) {
  }
  for (Naps naps(meeting); !handle && !(handle = store.try_get("segment"));) {
    if (meeting.deadline.passed()) {
      throw TimeoutError(
          base::cat("rank ", rank_, "/", world_size_, " group ", name, ": rank 0 did not arrive within ",
                    seconds(meeting.deadline.timeout()), " s; check that it was started and runs on this host"),
          0);
    }
    naps.nap();
  }
  memory_ = std::make_unique<io::SharedMemory>(attach_patiently(*handle, meeting));
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

void Segment::wait_for_all(const Meeting& meeting) {
  const auto missing = [this] {
    std::string ranks;
    for (int rank = 0; rank < world_size_; ++rank) {
      if (block(rank).ready.load(std::memory_order_acquire) == 0) ranks += base::cat(ranks.empty() ? "" : ", ", rank);
    }
    return ranks;
  };
  for (Naps naps(meeting); !missing().empty(); naps.nap()) {
    if (!meeting.deadline.passed()) continue;
    throw TimeoutError(base::cat("rank ", rank_, "/", world_size_, " group ", meeting.group, ": waited ",
                                 seconds(meeting.deadline.timeout()), " s for rank(s) ", missing(),
                                 " to arrive; check that they were started"));
  }
}

void Segment::open_pidfds() {
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

void Segment::agree_on_constants(const Meeting& meeting) {
  Header& shared = header();
  if (rank_ == 0) {
    const bool exclusive = world_size_ > 1 && exclusive_cpus(cpus_);
    shared.constants = exclusive ? known_constants(*this) : kSharedCpus;
    shared.constants_ready.store(1, std::memory_order_release);
    return;
  }
  if (rank_ == 1) help_to_measure(*this, meeting.deadline);
  for (Naps naps(meeting); shared.constants_ready.load(std::memory_order_acquire) == 0; naps.nap()) {
    // Who waits for others by other means finds out by them. Rank 0 may have done its part, and all else, since.
    if (!meeting.while_waiting && gone(0) && shared.constants_ready.load(std::memory_order_acquire) == 0) {
      throw PeerError(base::cat("rank ", rank_, "/", world_size_, " group ", meeting.group,
                                ": rank 0 ended while the group formed"),
                      0);
    }
    if (!meeting.deadline.passed()) continue;
    throw TimeoutError(
        base::cat("rank ", rank_, "/", world_size_, " group ", meeting.group,
                  ": rank 0 stopped while the group formed; waited ", seconds(meeting.deadline.timeout()), " s"),
        0);
  }
}

void Segment::require_slot(std::uint64_t tick) {
  bool& has = has_slot_[tick % kSlots];
  if (has) return;
  const auto offset = static_cast<std::size_t>(slot(rank_, tick) - base_.get());
  memory_->reserve(offset, kSlotBytes);
  has = true;
}

void Segment::require_ring(int to) {
  const auto index = static_cast<std::size_t>(to);
  if (has_ring_[index]) return;
  memory_->reserve(static_cast<std::size_t>(message_ring(rank_, to) - base_.get()), kRingBytes);
  has_ring_[index] = true;
}

bool Segment::gone(int rank) const {
  const RankBlock& peer = block(rank);
  if (left(rank)) return true;
  if (peer.pid == static_cast<std::uint32_t>(::getpid())) return false;
  const io::UniqueFd& fd = pidfds_[static_cast<std::size_t>(rank)];
  if (!fd) return true;
  pollfd entry{fd.get(), POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

void Segment::reserve(std::size_t nbytes) {
  LS_REQUIRE(nbytes <= kMaxAllocationBytes && mappings_.size() < kMaxAllocations, "allocate: got ", nbytes,
             " bytes for allocation ", mappings_.size() + 1, " of this group; it takes up to ", kMaxAllocationBytes,
             " bytes, ", kMaxAllocations, " times: keep allocations and use them again");
  reserved_.nbytes = round_up(std::max<std::size_t>(nbytes, 1), io::page_size());
  // Parts that can have huge pages begin with one. Nothing lies between the end of one and the next.
  const std::size_t huge = io::huge_page_size();
  const std::size_t unit = huge != 0 && reserved_.nbytes >= huge ? huge : io::page_size();
  reserved_.begin = round_up(next_offset_, unit);
  reserved_.stride = round_up(reserved_.nbytes, unit);
  memory_->reserve(reserved_.part(rank_), reserved_.nbytes);
}

BackendMemory Segment::map_reserved() {
  auto allocation = std::make_shared<Allocation>(memory_->duplicate(), reserved_, world_size_, rank_);
  next_offset_ = reserved_.part(world_size_);
  mappings_.push_back(allocation->mapping);
  void* const data = allocation->parts[static_cast<std::size_t>(rank_)].get();
  return {std::move(allocation), data, reserved_.nbytes};
}

SharedAddress Segment::locate(const void* data, std::size_t nbytes) const noexcept {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  for (std::size_t index = mappings_.size(); index-- > 0;) {
    const Mapping& mapping = *mappings_[index];
    if (!mapping.alive.load(std::memory_order_acquire)) continue;
    const auto begin = reinterpret_cast<std::uintptr_t>(mapping.parts[static_cast<std::size_t>(rank_)]);
    if (at < begin || at + nbytes > begin + mapping.nbytes) continue;
    return {(index + 1) & kMaxAllocations, (at - begin) & kMaxAllocationBytes};  // They fit: see reserve().
  }
  return {};
}

std::byte* Segment::resolve(int rank, SharedAddress address) const noexcept {
  if (address.allocation == 0 || address.allocation > mappings_.size()) return nullptr;
  const Mapping& mapping = *mappings_[address.allocation - 1];
  if (!mapping.alive.load(std::memory_order_acquire)) return nullptr;
  return mapping.parts[static_cast<std::size_t>(rank)] + address.offset;
}

}  // namespace lockstep::shm
