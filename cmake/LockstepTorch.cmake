# libtorch, seen as a system library, and one precompiled header that the whole tensor wing shares.
find_package(Torch REQUIRED)

add_library(lockstep_torch INTERFACE)
target_include_directories(lockstep_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
target_link_libraries(lockstep_torch INTERFACE ${TORCH_LIBRARIES})
separate_arguments(LOCKSTEP_TORCH_FLAGS UNIX_COMMAND "${TORCH_CXX_FLAGS}")
target_compile_options(lockstep_torch INTERFACE ${LOCKSTEP_TORCH_FLAGS})

# Parsing <torch/torch.h> takes longer than compiling what uses it: it is parsed once, here.
add_library(lockstep_torch_pch STATIC ${CMAKE_CURRENT_LIST_DIR}/torch_pch.cpp)
target_link_libraries(lockstep_torch_pch PRIVATE lockstep_options lockstep_torch)
target_compile_options(lockstep_torch_pch PRIVATE -fpch-preprocess)
target_precompile_headers(lockstep_torch_pch PRIVATE <torch/torch.h>)

# lockstep_use_torch(target): links libtorch and our options, and reuses the precompiled header.
function(lockstep_use_torch target)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:lockstep_options> $<BUILD_INTERFACE:lockstep_torch>)
  target_compile_options(${target} PRIVATE -fpch-preprocess)
  # CMake compiles executables as PIE, which could not use a header that was precompiled as PIC; the last flag wins.
  target_compile_options(${target} PRIVATE -fPIC)
  target_precompile_headers(${target} REUSE_FROM lockstep_torch_pch)
endfunction()
