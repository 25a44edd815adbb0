# Writes a CTest file with one test for each suite of a gtest binary:
#   cmake -D BINARY=.. -D FILE=.. -D PREFIX=.. -D PROPERTIES=.. -P discover_suites.cmake
execute_process(COMMAND ${BINARY} --gtest_list_tests OUTPUT_VARIABLE listing COMMAND_ERROR_IS_FATAL ANY)
# "Suite." or "Suite/0.  # TypeParam = int" at the start of a line; tests are indented. A semicolon would divide a list.
string(REPLACE ";" "," listing "${listing}")
string(REGEX MATCHALL "\n[^ \n][^ \n]*\\.(  #[^\n]*)?\n" lines "\n${listing}")
set(script "")
foreach(line ${lines})
  string(REGEX REPLACE "\n([^ ]*)\\..*" "\\1" suite "${line}")
  string(APPEND script "add_test([==[${PREFIX}${suite}]==] [==[${BINARY}]==] [==[--gtest_filter=${suite}.*]==])\n"
                       "set_tests_properties([==[${PREFIX}${suite}]==] PROPERTIES ${PROPERTIES})\n")
endforeach()
file(WRITE ${FILE} "${script}")
