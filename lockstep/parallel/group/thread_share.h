#pragma once
// How many threads a rank computes with where nobody said so.

namespace lockstep::group {

/// Pure. An even part of the host's `host_cpus` for each of `local_world_size` ranks, and no more than the `cpus` that
/// this process may run on: its mask may be its own or shared with others (bound to a socket), which it does not tell.
/// Nor more than an even part of `quota`, the CPUs' worth of time that the ranks have together (0: no limit); and at
/// least 1.
int thread_share(int cpus, int host_cpus, int local_world_size, double quota);

/// Gives libtorch this rank's share of threads, unless OMP_NUM_THREADS says what it shall have. `lockstep run` sets
/// that variable; mpirun and srun do not, and every rank would take all cores.
void share_threads(int local_world_size);

}  // namespace lockstep::group
