#pragma once
// One worker of a supervisor: its process and its two streams. Internal: never included from a public header.

#include <optional>
#include <string>

#include "lockstep/core/io/fd.h"
#include "lockstep/core/launch/output.h"
#include "lockstep/core/launch/supervisor.h"

namespace lockstep::launch {

/// A process that was started, until its end is known. The destructor kills it when it is alive.
class Worker {
 public:
  /// Where captured output goes.
  struct Receivers {
    Sink* out;
    Sink* err;
    std::function<void(const OutputLine&)> on_line;  ///< may be empty
  };

  /// One stream of the worker, from its pipe to wherever it is wanted.
  struct Stream {
    StreamSpec spec;
    io::UniqueFd pipe;  ///< the read end; empty when not captured, or at its end
    LineSplitter splitter;
    std::optional<LogFile> log;
    bool error = false;
  };

  explicit Worker(WorkerSpec spec);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  Stream& out() noexcept { return out_; }
  Stream& err() noexcept { return err_; }
  int pidfd() const noexcept { return child_.pidfd.get(); }
  int rank() const noexcept { return spec_.rank; }
  bool alive() const noexcept { return alive_; }
  /// How it ended; valid when it is no longer alive.
  const WorkerEnd& end() const noexcept { return end_; }

  /// Reads once from the stream's pipe (never waits) and passes on what came. False when there was nothing.
  bool pump(Stream& stream, const Receivers& receivers);
  /// After the pidfd became readable: ends what is left of its group, collects its last output and its end.
  void reap(const Receivers& receivers);
  /// Sends `signal` to the worker and its group. What ends after that ends because it was told to.
  void tell(int signal) noexcept;
  /// Sends `signal` with no such meaning. False when the worker has ended.
  bool signal(int signal) noexcept;
  /// In a forked child: the process is no longer this object's to end.
  void abandon() noexcept;

 private:
  void finish(Stream& stream, const Receivers& receivers);
  void pass_line(const Stream& stream, const Receivers& receivers, std::string_view text, char terminator);

  WorkerSpec spec_;
  Child child_;
  Clock::time_point started_;
  Stream out_;
  Stream err_;
  Tail tail_;
  WorkerEnd end_;
  bool alive_ = true;
  bool told_ = false;
};

}  // namespace lockstep::launch
