// One MPI behind wire::Transport: built once for each MPI that is found, and loaded by loader.cpp. A transfer is a
// request of MPI_Isend or MPI_Irecv, its channel the tag. MPI moves only inside its calls: in state() and wait().

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "lockstep/core/backend/mpi/mpi_process.h"

namespace lockstep::mpi {
namespace {

using wire::TransferState;

/// How long wait() only yields. Ranks that share cores without knowing (each in a container of its own) would starve
/// each other if they did so for long.
constexpr Duration kYield = std::chrono::microseconds(500);
constexpr Duration kNap = std::chrono::microseconds(50);

/// `nbytes` as MPI takes them: its counts are int, so more is one element of a type made for it. The other side may
/// describe the same bytes in another way.
class Bytes {
 public:
  explicit Bytes(std::size_t nbytes) {
    if (nbytes <= std::numeric_limits<int>::max()) {
      count_ = static_cast<int>(nbytes);
      return;
    }
    constexpr std::size_t kGiB = std::size_t{1} << 30;
    int lengths[] = {static_cast<int>(nbytes / kGiB), static_cast<int>(nbytes % kGiB)};
    const MPI_Aint offsets[] = {0, static_cast<MPI_Aint>(nbytes / kGiB * kGiB)};
    MPI_Datatype types[] = {MPI_DATATYPE_NULL, MPI_BYTE};
    MPI_Type_contiguous(static_cast<int>(kGiB), MPI_BYTE, &types[0]);
    MPI_Type_create_struct(2, lengths, offsets, types, &made_);
    MPI_Type_commit(&made_);
    MPI_Type_free(&types[0]);
    type_ = made_;
    count_ = 1;
  }
  ~Bytes() {
    if (made_ != MPI_DATATYPE_NULL) MPI_Type_free(&made_);  // MPI keeps it while a request needs it
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  int count() const noexcept { return count_; }
  MPI_Datatype type() const noexcept { return type_; }

 private:
  int count_ = 0;
  MPI_Datatype type_ = MPI_BYTE;
  MPI_Datatype made_ = MPI_DATATYPE_NULL;
};

class MpiTransfer;

/// Transfers that went before they were complete, and those that are there.
class Orphans {
 public:
  void enter(MpiTransfer* transfer) {
    const std::lock_guard<std::mutex> guard(lock_);
    live_.insert(transfer);
  }
  void leave(MpiTransfer* transfer) {
    const std::lock_guard<std::mutex> guard(lock_);
    live_.erase(transfer);
  }
  std::set<MpiTransfer*> live() {
    const std::lock_guard<std::mutex> guard(lock_);
    return live_;
  }
  void add(MPI_Request request, bool receives) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (receives) MPI_Cancel(&request);
    (receives ? requests_.receives : requests_.sends).push_back(request);
    requests_.done();
  }
  /// Waits so long at most.
  void wait(Duration patience) {
    const Clock::time_point end = Clock::now() + patience;
    while (!done() && Clock::now() < end) std::this_thread::sleep_for(kNap);
  }
  /// Waits kDrain at most; returns what is still moving then.
  Requests drain() {
    wait(kDrain);
    const std::lock_guard<std::mutex> guard(lock_);
    return std::move(requests_);
  }

 private:
  bool done() {
    const std::lock_guard<std::mutex> guard(lock_);
    return requests_.done();
  }

  std::mutex lock_;
  Requests requests_;
  std::set<MpiTransfer*> live_;
};

class MpiTransfer final : public wire::Transfer {
 public:
  MpiTransfer(Orphans& orphans, bool receives) : orphans_(orphans), receives_(receives) { orphans_.enter(this); }
  ~MpiTransfer() override {
    give_up();
    orphans_.leave(this);
  }
  MpiTransfer(const MpiTransfer&) = delete;
  MpiTransfer& operator=(const MpiTransfer&) = delete;

  /// Takes a receive back, and leaves a send to MPI. What is complete by now stays so.
  void give_up() noexcept {
    if (state() != TransferState::kMoving || MpiProcess::get().finalised()) return;
    const auto alone = MpiProcess::get().calls();
    orphans_.add(request_, receives_);
    state_ = TransferState::kBroken;
  }

  MPI_Request* request() noexcept { return &request_; }
  void refuse() noexcept { state_ = TransferState::kBroken; }
  void begun(int code) noexcept {
    if (code != MPI_SUCCESS) state_ = TransferState::kBroken;
  }

  TransferState state() noexcept override {
    if (state_ != TransferState::kMoving) return state_;
    if (MpiProcess::get().finalised()) return state_ = TransferState::kBroken;
    const auto alone = MpiProcess::get().calls();
    int complete = 0;
    const int code = MPI_Test(&request_, &complete, MPI_STATUS_IGNORE);
    if (code != MPI_SUCCESS) return state_ = TransferState::kBroken;
    if (complete != 0) state_ = TransferState::kComplete;
    return state_;
  }

  void wait(Duration at_most) noexcept override {
    const Clock::time_point start = Clock::now();
    while (state() == TransferState::kMoving) {
      const Duration waited = Clock::now() - start;
      if (waited >= at_most) return;
      if (waited < kYield) {
        ::sched_yield();
      } else {
        std::this_thread::sleep_for(std::min(kNap, at_most - waited));
      }
    }
  }

 private:
  Orphans& orphans_;
  const bool receives_;
  MPI_Request request_ = MPI_REQUEST_NULL;
  TransferState state_ = TransferState::kMoving;
};

class MpiTransport final : public wire::Transport {
 public:
  /// `kept`: the communicator outlives the transport.
  MpiTransport(MPI_Comm communicator, bool kept) : communicator_(communicator), kept_(kept) {
    MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(communicator_, &rank_);
    MPI_Comm_size(communicator_, &world_size_);
    MpiProcess::get().opened();
  }
  ~MpiTransport() override {
    MpiProcess& process = MpiProcess::get();
    if (process.finalised()) return;
    {
      const auto alone = process.calls();
      Requests requests = orphans_.drain();
      tell_end(requests);
      process.ended({communicator_, kept_, std::move(requests)});
    }
    process.finalise_if_last();
  }
  MpiTransport(const MpiTransport&) = delete;
  MpiTransport& operator=(const MpiTransport&) = delete;

  void close(Duration patience) noexcept override {
    if (closed_.exchange(true) || MpiProcess::get().finalised()) return;
    for (MpiTransfer* const transfer : orphans_.live()) transfer->give_up();
    orphans_.wait(patience);
  }
  bool takes_back_sends() const noexcept override { return false; }

  std::string_view name() const noexcept override { return "mpi"; }
  int rank() const noexcept override { return rank_; }
  int world_size() const noexcept override { return world_size_; }

  std::unique_ptr<wire::Transfer> send(int peer, int channel, const void* data, std::size_t nbytes) noexcept override {
    auto transfer = std::make_unique<MpiTransfer>(orphans_, false);
    if (closed_) {
      transfer->refuse();
      return transfer;
    }
    const auto alone = MpiProcess::get().calls();
    const Bytes bytes(nbytes);
    transfer->begun(MPI_Isend(data, bytes.count(), bytes.type(), peer, channel, communicator_, transfer->request()));
    return transfer;
  }
  std::unique_ptr<wire::Transfer> recv(int peer, int channel, void* data, std::size_t capacity) noexcept override {
    auto transfer = std::make_unique<MpiTransfer>(orphans_, true);
    if (closed_) {
      transfer->refuse();
      return transfer;
    }
    const auto alone = MpiProcess::get().calls();
    const Bytes bytes(capacity);
    transfer->begun(MPI_Irecv(data, bytes.count(), bytes.type(), peer, channel, communicator_, transfer->request()));
    return transfer;
  }

  /// MPI does not tell: its launchers end the job when a rank dies.
  bool gone(int) noexcept override { return false; }
  std::string why_gone(int) override { return {}; }
  bool any_thread() const noexcept override { return MpiProcess::get().any_thread(); }

 private:
  void tell_end(Requests& requests) {
    for (int peer = 0; peer < world_size_; ++peer) {
      if (peer == rank_) continue;
      MPI_Request& told = requests.sends.emplace_back(MPI_REQUEST_NULL);
      MPI_Isend(nullptr, 0, MPI_BYTE, peer, kEndTag, communicator_, &told);
      MPI_Request& heard = requests.receives.emplace_back(MPI_REQUEST_NULL);
      MPI_Irecv(nullptr, 0, MPI_BYTE, peer, kEndTag, communicator_, &heard);
    }
  }

  MPI_Comm communicator_;
  const bool kept_;
  int rank_ = 0;
  int world_size_ = 1;
  Orphans orphans_;
  std::atomic<bool> closed_{false};
};

class MpiOpening final : public Opening {
 public:
  MpiOpening(MPI_Comm parent, bool all, std::unique_ptr<Duplicate> duplicate)
      : parent_(parent), all_(all), duplicate_(std::move(duplicate)) {}
  ~MpiOpening() override {
    if (duplicate_ != nullptr) MpiProcess::get().give_up(std::move(duplicate_));
  }
  MpiOpening(const MpiOpening&) = delete;
  MpiOpening& operator=(const MpiOpening&) = delete;

  bool done() noexcept override {
    const auto alone = MpiProcess::get().calls();
    int complete = 0;
    code_ = MPI_Test(&duplicate_->request, &complete, MPI_STATUS_IGNORE);
    return code_ != MPI_SUCCESS || complete != 0;
  }
  std::unique_ptr<wire::Transport> take(Failure& failure) noexcept override {
    const auto alone = MpiProcess::get().calls();
    if (failed(code_, "MPI_Comm_idup", failure)) return nullptr;
    const MPI_Comm communicator = std::exchange(duplicate_, nullptr)->communicator;
    const bool kept = all_ && MpiProcess::get().keep(parent_, communicator);
    return std::make_unique<MpiTransport>(communicator, kept);
  }

 private:
  const MPI_Comm parent_;
  const bool all_;
  std::unique_ptr<Duplicate> duplicate_;
  int code_ = MPI_SUCCESS;
};

/// The caller's communicator, once it is one that can be duplicated; MPI_COMM_NULL: `failure` says why not.
MPI_Comm parent_of(const OpenRequest& request, Failure& failure) {
  if (request.parent.nbytes == 0) return MPI_COMM_WORLD;
  MPI_Comm parent = MPI_COMM_NULL;
  if (request.parent.nbytes != sizeof parent) {
    fail(failure, FailureKind::kUsage, "the communicator is of another MPI: its handle has %zu bytes, this MPI's %zu",
         request.parent.nbytes, sizeof parent);
    return MPI_COMM_NULL;
  }
  std::memcpy(&parent, request.parent.communicator.data(), sizeof parent);
  if (parent == MPI_COMM_NULL) {
    fail(failure, FailureKind::kUsage, "the communicator is MPI_COMM_NULL: this rank has no part in it");
    return MPI_COMM_NULL;
  }
  int joins_two = 0;
  MPI_Comm_test_inter(parent, &joins_two);
  if (joins_two == 0) return parent;
  fail(failure, FailureKind::kUsage, "the communicator is an intercommunicator; merge it with MPI_Intercomm_merge()");
  return MPI_COMM_NULL;
}

bool are_members(MPI_Comm parent, const OpenRequest& request, Failure& failure) {
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(parent, &rank);
  MPI_Comm_size(parent, &size);
  const int* const end = request.members + request.member_count;
  for (const int* member = request.members; member != end; ++member) {
    if (*member < 0 || *member >= size || std::count(request.members, end, *member) != 1) {
      fail(failure, FailureKind::kUsage, "rank %d is listed twice, or is not in [0, %d) of the parent communicator",
           *member, size);
      return false;
    }
  }
  if (std::find(request.members, end, rank) != end) return true;
  fail(failure, FailureKind::kUsage, "rank %d of the parent communicator is not among the group's members", rank);
  return false;
}

/// Collective over the members alone.
bool make_subset(MPI_Comm parent, const OpenRequest& request, MPI_Comm& subset, Failure& failure) {
  if (!are_members(parent, request, failure)) return false;
  MPI_Group all = MPI_GROUP_NULL;
  MPI_Group members = MPI_GROUP_NULL;
  const MPI_Comm base = MpiProcess::get().kept_of(parent);
  MPI_Comm_group(base, &all);  // of this very communicator: MPICH 4.0 crashes where nobody has asked it for its group
  MPI_Group_incl(all, request.member_count, request.members, &members);
  const int code = MPI_Comm_create_group(base, members, request.tag, &subset);
  MPI_Group_free(&members);
  MPI_Group_free(&all);
  return !failed(code, "MPI_Comm_create_group", failure);
}

std::unique_ptr<Opening> open(const OpenRequest& request, Failure& failure) noexcept {
  MpiProcess& process = MpiProcess::get();
  if (!process.start(failure)) return nullptr;
  const auto alone = process.calls();
  const MPI_Comm parent = parent_of(request, failure);
  if (parent == MPI_COMM_NULL) return nullptr;
  auto duplicate = std::make_unique<Duplicate>();
  if (request.members != nullptr) {
    if (!make_subset(parent, request, duplicate->communicator, failure)) return nullptr;
  } else {
    const int code = MPI_Comm_idup(parent, &duplicate->communicator, &duplicate->request);
    if (failed(code, "MPI_Comm_idup", failure)) return nullptr;
  }
  return std::make_unique<MpiOpening>(parent, request.members == nullptr, std::move(duplicate));
}

const char* library() {
  static char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  text[std::strcspn(text, "\n,")] = '\0';
  std::replace(text, text + std::strlen(text), '\t', ' ');  // MPICH's
  return text;
}

}  // namespace
}  // namespace lockstep::mpi

extern "C" __attribute__((visibility("default"))) const lockstep::mpi::Module* lockstep_mpi_module() {
  namespace mpi = lockstep::mpi;
#if defined(OPEN_MPI)
  constexpr auto kFlavour = lockstep::MpiFlavour::kOpenMpi;
#else
  constexpr auto kFlavour = lockstep::MpiFlavour::kMpich;
#endif
  static const mpi::Module module = {mpi::kModuleVersion, kFlavour, mpi::library(), &mpi::open};
  return &module;
}
