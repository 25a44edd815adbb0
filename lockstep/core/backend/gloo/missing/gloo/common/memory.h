#pragma once
// Stands in for the header of this name that Debian's libgloo-dev leaves out, though its own transport/tcp headers
// include it. Only layouts matter here: they are those of libgloo 0.5. What is declared without a body is libgloo's own
// business; nothing here may be defined, or the linker could put it in place of libgloo's.

#include <memory>

namespace gloo {

template <typename T>
class NonOwningPtr;

template <typename T>
class ShareableNonOwningPtr final {
 public:
  explicit ShareableNonOwningPtr(T* object);
  ShareableNonOwningPtr(const ShareableNonOwningPtr&) = delete;
  ShareableNonOwningPtr& operator=(const ShareableNonOwningPtr&) = delete;
  ~ShareableNonOwningPtr();

 private:
  std::shared_ptr<T> object_;
};

template <typename T>
class WeakNonOwningPtr final {
 public:
  WeakNonOwningPtr();
  explicit WeakNonOwningPtr(const ShareableNonOwningPtr<T>& object);

 private:
  std::weak_ptr<T> object_;
};

}  // namespace gloo
