# cmake -D WING= -D BUILD= -D TORCH= -D CXX= -D PROGRAM= -D DIRECTORY= -P check.cmake
set(prefix ${DIRECTORY}/prefix)
set(build ${DIRECTORY}/build)

function(step what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "consumer of lockstep::${WING}: ${what} failed (${result})")
  endif()
endfunction()

file(REMOVE_RECURSE ${DIRECTORY})
step("installing" ${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})

set(options -D WING=${WING} -D CMAKE_CXX_COMPILER=${CXX} -D CMAKE_PREFIX_PATH=${prefix})
if(WING STREQUAL "core")
  # Core alone must not even look for libtorch.
  list(APPEND options -D CMAKE_DISABLE_FIND_PACKAGE_Torch=ON)
elseif(TORCH)
  list(APPEND options -D Torch_DIR=${TORCH})
endif()
step("configuring" ${CMAKE_COMMAND} --no-warn-unused-cli -S ${PROGRAM} -B ${build} -G Ninja ${options})
step("building" ${CMAKE_COMMAND} --build ${build})
step("running" ${prefix}/bin/lockstep run --nproc-per-node 2 -- ${build}/consumer)
