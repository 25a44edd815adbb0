# libgloo, where it is: LOCKSTEP_HAS_GLOO, and lockstep_gloo to link privately.
option(LOCKSTEP_WITH_GLOO "Build the transport between hosts by libgloo, where it is found" ON)

set(LOCKSTEP_HAS_GLOO OFF)
if(NOT LOCKSTEP_WITH_GLOO)
  message(STATUS "Lockstep: gloo transport: not built (LOCKSTEP_WITH_GLOO=OFF)")
  return()
endif()

find_path(LOCKSTEP_GLOO_INCLUDE_DIR gloo/context.h)
find_library(LOCKSTEP_GLOO_LIBRARY gloo)
mark_as_advanced(LOCKSTEP_GLOO_INCLUDE_DIR LOCKSTEP_GLOO_LIBRARY)
if(NOT LOCKSTEP_GLOO_INCLUDE_DIR OR NOT LOCKSTEP_GLOO_LIBRARY)
  message(STATUS "Lockstep: gloo transport: not built: libgloo not found; install libgloo-dev")
  return()
endif()

set(LOCKSTEP_GLOO_INCLUDE_DIRS ${LOCKSTEP_GLOO_INCLUDE_DIR})
if(NOT EXISTS ${LOCKSTEP_GLOO_INCLUDE_DIR}/gloo/common/memory.h)
  # Debian's package lacks one header that its others include.
  list(APPEND LOCKSTEP_GLOO_INCLUDE_DIRS ${PROJECT_SOURCE_DIR}/lockstep/core/backend/gloo/missing)
endif()

# The TCP transport's classes are derived from, and they change between versions.
include(CheckCXXSourceCompiles)
include(CMakePushCheckState)
cmake_push_check_state(RESET)
set(CMAKE_REQUIRED_INCLUDES ${LOCKSTEP_GLOO_INCLUDE_DIRS})
set(CMAKE_REQUIRED_LIBRARIES ${LOCKSTEP_GLOO_LIBRARY})
check_cxx_source_compiles([[
  #include <gloo/transport/tcp/context.h>
  #include <gloo/transport/tcp/pair.h>
  #include <gloo/transport/tcp/unbound_buffer.h>
  namespace tcp = gloo::transport::tcp;
  struct Pair final : tcp::Pair {
    Pair(tcp::Context* c, tcp::Device* d) : tcp::Pair(c, d, 0, std::chrono::milliseconds(0)) {}
    void handleEvents(int events) override { tcp::Pair::handleEvents(events); }
    void changeState(state next) noexcept override { tcp::Pair::changeState(next); }
    bool idle() { return fd_ >= 0 && tx_.empty() && !ex_; }
  };
  struct Buffer final : tcp::UnboundBuffer {
    using tcp::UnboundBuffer::UnboundBuffer;
    bool done() { return recvCompletions_ + sendCompletions_ > 0; }
  };
  int main(int argc, char**) {
    if (argc > 1) return Buffer(nullptr, nullptr, 0).done() + Pair(nullptr, nullptr).idle();
  }
]] LOCKSTEP_GLOO_COMPILES)
cmake_pop_check_state()
if(NOT LOCKSTEP_GLOO_COMPILES)
  message(STATUS "Lockstep: gloo transport: not built: ${LOCKSTEP_GLOO_LIBRARY} is not of the version that it is "
                 "written for (0.5.0 of May 2022, Debian 12's libgloo-dev)")
  return()
endif()

set(LOCKSTEP_HAS_GLOO ON)
message(STATUS "Lockstep: gloo transport: built with ${LOCKSTEP_GLOO_LIBRARY}")
add_library(lockstep_gloo INTERFACE)
target_include_directories(lockstep_gloo SYSTEM INTERFACE ${LOCKSTEP_GLOO_INCLUDE_DIRS})
target_link_libraries(lockstep_gloo INTERFACE ${LOCKSTEP_GLOO_LIBRARY})
