// Which MPI is taken, and where its module is looked for. Nothing here loads one: this program holds no MPI.

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/backend/mpi/loader.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"
#include "tests/unit/core/base/scoped_environment.h"

namespace lockstep::mpi {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;

template <typename Call>
std::string usage_error(Call&& call) {
  try {
    call();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "none";
}

TEST(MpiLoader, KnowsLibrariesByWhatTheySay) {
  EXPECT_EQ(flavour_of_library("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4"), MpiFlavour::kOpenMpi);
  EXPECT_EQ(flavour_of_library("MPICH Version:\t4.0.2\nMPICH Release date:\t..."), MpiFlavour::kMpich);
  EXPECT_EQ(flavour_of_library("Intel(R) MPI Library 2021.9 for Linux* OS"), MpiFlavour::kMpich);
  EXPECT_EQ(flavour_of_library("MVAPICH2 Version      :\t2.3.7"), MpiFlavour::kMpich);
  EXPECT_EQ(flavour_of_library("Somebody's MPI 1.0"), MpiFlavour::kAny);
  EXPECT_EQ(flavour_of_library(""), MpiFlavour::kAny);
}

TEST(MpiLoader, TakesTheMpiOfTheLauncher) {
  ScopedEnvironment environment;
  environment.set("PMI_RANK", "0");
  EXPECT_EQ(detect_flavour(), MpiFlavour::kMpich);
  environment.set("OMPI_COMM_WORLD_SIZE", "2");
  EXPECT_EQ(detect_flavour(), MpiFlavour::kOpenMpi) << "Slurm may set PMI_RANK beside it";
}

TEST(MpiLoader, WithoutALauncherItSaysWhatItLookedFor) {
  ScopedEnvironment environment;
  EXPECT_THAT(usage_error([] { detect_flavour(); }), AllOf(HasSubstr("OMPI_COMM_WORLD_SIZE"), HasSubstr("PMI_SIZE"),
                                                           HasSubstr("openmpi-bin"), HasSubstr("LOCKSTEP_MPI_MODULE")));
}

TEST(MpiLoader, LooksBesideTheProgramFirst) {
  ScopedEnvironment environment;
  const auto places = module_places(MpiFlavour::kMpich);
  ASSERT_EQ(places.size(), 4u);
  EXPECT_THAT(places[0], AllOf(HasSubstr("/../lib"), EndsWith("/lockstep/liblockstep_mpi_mpich.so")));
  EXPECT_EQ(places[1], "liblockstep_mpi_mpich.so");
  environment.set("LOCKSTEP_MPI_MODULE", "/somewhere/else.so");
  EXPECT_EQ(module_places(MpiFlavour::kMpich), std::vector<std::string>{"/somewhere/else.so"});
}

TEST(MpiLoader, AModuleThatCannotBeLoadedIsAnError) {
  ScopedEnvironment environment;
  environment.set("LOCKSTEP_MPI_MODULE", "/nowhere/module.so");
  EXPECT_THAT(usage_error([] { load_module(MpiFlavour::kOpenMpi); }),
              AllOf(HasSubstr("no module for Open MPI: looked for /nowhere/module.so;"), HasSubstr("-dev package")));

  const io::TempDirectory directory;
  const std::string path = directory.path() + "/module.so";
  io::write_file_atomic(path, "no library", io::Durability::kCached);
  environment.set("LOCKSTEP_MPI_MODULE", path);
  EXPECT_THAT(usage_error([] { load_module(MpiFlavour::kOpenMpi); }), HasSubstr("can't load " + path));
}

}  // namespace
}  // namespace lockstep::mpi
