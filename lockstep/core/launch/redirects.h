#pragma once
// torchrun's --redirects and --tee. Internal: never included from a public header.

#include <map>
#include <string>
#include <string_view>

namespace lockstep::launch {

/// Which of a worker's two streams is meant; torchrun's numbers.
enum class Streams : unsigned { kNone = 0, kOut = 1, kErr = 2, kBoth = 3 };

constexpr bool has(Streams set, Streams one) noexcept {
  return (static_cast<unsigned>(set) & static_cast<unsigned>(one)) != 0;
}

/// Streams per local rank.
class StreamChoice {
 public:
  StreamChoice() = default;
  explicit StreamChoice(Streams all) : all_(all) {}

  Streams of(int local_rank) const {
    const auto found = of_rank_.find(local_rank);
    return found == of_rank_.end() ? all_ : found->second;
  }
  /// True where no stream of any rank is chosen.
  bool none() const;
  /// The highest local rank that is named, or -1.
  int highest_rank() const { return of_rank_.empty() ? -1 : of_rank_.rbegin()->first; }

 private:
  friend StreamChoice parse_stream_choice(std::string_view text);

  Streams all_ = Streams::kNone;
  std::map<int, Streams> of_rank_;
};

/// "3" is both streams of every worker; "0:1,1:3" is stdout of local rank 0 and both of local rank 1, none of others.
/// Throws UsageError that says what is wrong with `text`.
StreamChoice parse_stream_choice(std::string_view text);

}  // namespace lockstep::launch
