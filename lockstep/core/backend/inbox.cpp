#include "lockstep/core/backend/inbox.h"

#include <algorithm>
#include <cstring>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/error.h"

namespace lockstep {

bool Inbox::matches(const Message& receive, const Header& header) {
  return receive.tag == header.tag && (receive.peer == kAnySource || receive.peer == header.source);
}

void Inbox::check(const Message& receive, const Header& header) const {
  if (receive.count == header.count && receive.dtype == header.dtype) return;
  throw MismatchError(base::cat("the ranks disagree: rank ", rank_, " calls ", describe(receive), ", rank ",
                                header.source, " sends ", header.count, " ", name_of(header.dtype), " with tag ",
                                header.tag));
}

void Inbox::take(Arriving& arriving) {
  const std::size_t nbytes = arriving.header.count * size_of(arriving.header.dtype);
  if (arriving.destination != arriving.buffer && nbytes != 0)
    std::memcpy(arriving.buffer, arriving.destination, nbytes);
  if (arriving.from_any) {
    if (sources_.size() == kRemembered) sources_.erase(sources_.begin());
    sources_[arriving.id] = arriving.header.source;
  }
  --incomplete_;
}

void Inbox::post(const Message& receive) {
  const auto kept = std::find_if(arriving_.begin(), arriving_.end(), [&](const Arriving& arriving) {
    return arriving.id == 0 && matches(receive, arriving.header);
  });
  if (kept == arriving_.end()) {
    receives_.push_back(receive);
    ++incomplete_;
    return;
  }
  check(receive, kept->header);
  ++incomplete_;
  kept->id = receive.id;
  kept->buffer = receive.buffer;
  kept->from_any = receive.peer == kAnySource;
  if (!kept->complete) return;
  take(*kept);
  kept_nbytes_ -= kept->kept.size();
  arriving_.erase(kept);
}

Inbox::Arriving* Inbox::begin(const Header& header) {
  const auto taker = std::find_if(receives_.begin(), receives_.end(),
                                  [&](const Message& receive) { return matches(receive, header); });
  if (taker != receives_.end()) {
    check(*taker, header);
    arriving_.push_back(
        {header, static_cast<std::byte*>(taker->buffer), taker->id, taker->buffer, taker->peer == kAnySource});
    receives_.erase(taker);
    return &arriving_.back();
  }
  const bool in_the_way = std::any_of(receives_.begin(), receives_.end(), [&](const Message& receive) {
    return receive.peer == kAnySource || receive.peer == header.source;
  });
  const std::size_t nbytes = header.count * size_of(header.dtype);
  if (!in_the_way || nbytes > kKeptBytes - kept_nbytes_) return nullptr;
  Arriving& arriving = arriving_.emplace_back(Arriving{header});
  arriving.kept.resize(nbytes);
  arriving.destination = arriving.kept.data();
  kept_nbytes_ += nbytes;
  return &arriving;
}

void Inbox::end(Arriving* arriving) {
  arriving->complete = true;
  if (arriving->id == 0) return;
  take(*arriving);
  kept_nbytes_ -= arriving->kept.size();
  arriving_.remove_if([arriving](const Arriving& each) { return &each == arriving; });
}

bool Inbox::holds(std::uint64_t id) const {
  return posted(id) != nullptr ||
         std::any_of(arriving_.begin(), arriving_.end(), [id](const Arriving& arriving) { return arriving.id == id; });
}

const Message* Inbox::posted(std::uint64_t id) const {
  const auto found =
      std::find_if(receives_.begin(), receives_.end(), [id](const Message& receive) { return receive.id == id; });
  return found == receives_.end() ? nullptr : &*found;
}

int Inbox::take_source_of(std::uint64_t id) {
  const auto found = sources_.find(id);
  if (found == sources_.end()) return -1;
  const int source = found->second;
  sources_.erase(found);
  return source;
}

std::string Inbox::unclaimed() const {
  const auto is_unclaimed = [](const Arriving& arriving) { return arriving.id == 0; };
  const auto first = std::find_if(arriving_.begin(), arriving_.end(), is_unclaimed);
  if (first == arriving_.end()) return "";
  const auto more = std::count_if(std::next(first), arriving_.end(), is_unclaimed);
  return base::cat("a message from rank ", first->header.source, " with tag ", first->header.tag, " (",
                   first->header.count, " ", name_of(first->header.dtype), ")",
                   more > 0 ? base::cat(" and ", more, " more") : "");
}

}  // namespace lockstep
