#include <gtest/gtest.h>

#include "tests/support/processes.h"

int main(int argc, char** argv) {
  int exit_code = 0;
  if (lockstep::support::run_as_worker(argc, argv, exit_code)) return exit_code;
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
