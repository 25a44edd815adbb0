#pragma once
// What crosses between the core and a module that holds one MPI (mpi_module.cpp). A module uses no symbol of the core,
// and nothing throws across. Internal: never included from a public header.

#include <chrono>
#include <cstddef>
#include <memory>

#include "lockstep/core/backend/mpi/handle.h"
#include "lockstep/core/backend/wire/transport.h"

namespace lockstep::mpi {

/// Of this header and of wire/transport.h: a module of another version is refused.
inline constexpr unsigned kModuleVersion = 2;

/// Tags above the channels: the message with which a rank ends a transport, and those by which groups of some ranks
/// form. MPI guarantees tags up to 32767.
inline constexpr int kEndTag = wire::Transport::kChannels;
inline constexpr int kFirstGroupTag = kEndTag + 1;
inline constexpr int kGroupTags = 32768 - kFirstGroupTag;

/// The longest wait of a transport's destructor for what is in flight and can't be taken back.
inline constexpr Duration kDrain = std::chrono::milliseconds(100);

enum class FailureKind {
  kNone,
  kUsage,  ///< the program's or the user's
  kMpi,    ///< MPI's own
};

struct Failure {
  FailureKind kind = FailureKind::kNone;
  char text[512] = {};
};

struct OpenRequest {
  MpiHandle parent;
  const int* members = nullptr;  ///< ranks of the parent; null: all
  int member_count = 0;
  int tag = kFirstGroupTag;  ///< keeps groups of members apart that form at once
};

/// A transport whose ranks are still coming. Destroyed before that, it is given up: MPI keeps what it began.
class Opening {
 public:
  virtual ~Opening() = default;
  /// Never waits. True when take() has the transport, or a failure.
  virtual bool done() noexcept = 0;
  /// Once, when done: the transport, or null and `failure`.
  virtual std::unique_ptr<wire::Transport> take(Failure& failure) noexcept = 0;
};

struct Module {
  unsigned version;
  MpiFlavour flavour;
  const char* library;  ///< MPI's own words: "Open MPI v4.1.4, ..."
  /// Initialises MPI if nobody has, and begins. Null: `failure` says why.
  std::unique_ptr<Opening> (*open)(const OpenRequest& request, Failure& failure) noexcept;
};

/// The one symbol of a module, extern "C".
inline constexpr const char* kModuleSymbol = "lockstep_mpi_module";
using ModuleFunction = const Module* (*)();

}  // namespace lockstep::mpi
