#pragma once
// How many threads a rank computes with where nobody said so.

namespace lockstep::group {

/// Pure. `usable` CPUs of this process, of `online` ones of the host that `local_world_size` ranks share: a process
/// that was bound to some of them has its share already, else they are split evenly. At least 1.
int thread_share(int usable, int online, int local_world_size);

/// Gives libtorch this rank's share of threads, unless OMP_NUM_THREADS says what it shall have. `lockstep run` sets
/// that variable; mpirun and srun do not, and every rank would take all cores.
void share_threads(int local_world_size);

}  // namespace lockstep::group
