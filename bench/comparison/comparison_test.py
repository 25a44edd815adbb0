"""Tests of what needs no measurement: sizes, verdicts, and programs that fall silent."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import xml.etree.ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from comparison import network, programs, report, requirements, results, steadiness, steps  # noqa: E402
from comparison.steadiness_test import MovingCores  # noqa: E402, F401

KI, MI = 1 << 10, 1 << 20


def measured(times, shares=()):
    """Results of one round: {program: {size: us}}."""
    found = results.Results()
    for name, by_size in times.items():
        found.add(name, [{"bytes": size, "p50_us": us, "wrong": 0} for size, us in by_size.items()])
    for size, share in dict(shares).items():
        found.shares[size].append(share)
    return found


def requirement(measure, bound, ours="lockstep_backend", low=4, high=4 * KI):
    return requirements.Requirement("all_reduce", 2, low, high, ours, measure, bound)


class Sizes(unittest.TestCase):
    def test_grow_by_the_factor(self):
        self.assertEqual(programs.sizes_between(4, 300, 4), [4, 16, 64, 256])
        self.assertEqual(programs.sizes_between(64 * KI, 64 * KI, 16), [64 * KI])

    def test_parse(self):
        self.assertEqual([programs.parse_bytes(text) for text in ("4", "64K", "2M", "1G")],
                         [4, 64 * KI, 2 * MI, 1 << 30])

    def test_runs_are_unbroken(self):
        self.assertEqual(programs.runs_of([4, 16, 256, 1024, 65536], 4), [[4, 16], [256, 1024], [65536]])
        self.assertEqual(programs.runs_of([], 4), [])


class Verdicts(unittest.TestCase):
    def judge(self, wanted, times, shares=()):
        return requirements.judge(wanted, measured(times, shares))

    def test_the_worst_cell_decides(self):
        verdict = self.judge(requirement("best", 2), {"lockstep_backend": {4: 1, 16: 1, 64 * KI: 9},
                                                      "mpich": {4: 5, 16: 3, 64 * KI: 1}, "openmpi": {4: 4, 16: 1.5}})
        self.assertEqual((verdict.worst.size, verdict.worst.peer, verdict.holds), (16, "openmpi", False))
        self.assertEqual(verdict.text, "**short by 25 %**")
        self.assertEqual(verdict.cell, "16 B: 1.50 x (openmpi)")

    def test_exactly_the_bound_holds(self):
        self.assertTrue(self.judge(requirement("best", 2), {"lockstep_backend": {4: 1}, "mpich": {4: 2}}).holds)

    def test_pytorch_is_no_library(self):
        times = {"lockstep_backend": {4: 1}, "torch_gloo": {4: 2}}
        self.assertEqual(self.judge(requirement("best", 1), times).text, "not measured")
        self.assertTrue(self.judge(requirement("pytorch", 2), times).holds)
        self.assertFalse(self.judge(requirement("pytorch", 3), times).holds)

    def test_under_is_not_at(self):
        self.assertTrue(self.judge(requirement("us", 0.5), {"lockstep_backend": {4: 0.4, 16: 0.49}}).holds)
        at = self.judge(requirement("us", 0.5), {"lockstep_backend": {4: 0.5}})
        self.assertEqual((at.holds, at.text), (False, "**over by less than 1 %**"))
        over = self.judge(requirement("us", 0.5), {"lockstep_backend": {4: 0.4, 16: 0.6}})
        self.assertEqual(over.text, "**over by 20 %**")

    def test_share_of_the_limit(self):
        verdict = self.judge(requirement("limit", 0.85), {"lockstep_backend": {4: 1, 16: 1}}, {4: 0.9, 16: 0.5})
        self.assertEqual((verdict.worst.size, verdict.holds), (16, False))

    def test_what_the_machine_allows_stands_beside_it(self):
        found = results.Results()
        for name, rows in {"lockstep_backend": ((4, 2, 1), (16, 4, 3)), "lockstep_user": ((4, 2, 2), (16, 4, 4)),
                           "mpich": ((4, 6, None), (16, 9, None))}.items():
            found.add(name, [{"bytes": size, "p50_us": us, "wrong": 0} | ({"limit_us": limit} if limit else {})
                             for size, us, limit in rows])
        limits = [requirements.judge(requirement(*what), found).limit for what in (
            ("best", 4), ("best", 4, "lockstep_user"), ("us", 0.5), ("limit", 0.85), ("pytorch", 9))]
        self.assertEqual(limits, ["16 B: 3.00 x", "16 B: 2.25 x", "16 B: 3.00 us", "-", "-"])

    def test_a_size_that_only_others_did_fails(self):
        verdict = self.judge(requirement("best", 1), {"lockstep_backend": {4: 1}, "mpich": {4: 2, 16: 2}})
        self.assertEqual((verdict.holds, verdict.text), (False, "**fails**: no result of 16 B"))

    def test_wrong_values_have_no_time(self):
        found = measured({"lockstep_backend": {4: 1, 16: 1}, "mpich": {4: 2}, "openmpi": {4: 3}}, {16: 0.9})
        for name, size in (("lockstep_backend", 16), ("mpich", 4)):  # Wrong in one round is wrong.
            rows = [{"bytes": size, "p50_us": 0.5, "wrong": 3}]
            found.check(name, rows)
            found.add(name, rows)
        self.assertEqual((found.best_peer(4), found.sizes(), found.share(16)), ((3, "openmpi"), [4, 16], None))
        verdict = requirements.judge(requirement("best", 1), found)
        self.assertEqual((verdict.holds, verdict.text), (False, "**fails**: no result of 16 B"))
        runner = programs.Runner(programs.Sweep("all_reduce", 2, [4, 16], 4, 0.1, 1))
        said = report.footer([(runner, found)], steadiness.Watch(lambda: {"measured": False}))
        self.assertIn("wrong elements: {'lockstep_backend, all_reduce, 2 ranks': 3, 'mpich,", said)

    def test_nothing_measured_is_no_success(self):
        verdict = requirements.judge(requirement("best", 1), None)
        self.assertEqual((verdict.holds, verdict.text, verdict.cell), (False, "not measured", "-"))

    def test_every_size_of_all_reduce_is_in_one_band(self):
        for ours in ("lockstep_backend", "lockstep_user"):
            bands = [band for band in requirements.REQUIREMENTS
                     if (band.operation, band.nproc, band.ours, band.measure) == ("all_reduce", 2, ours, "best")]
            for size in programs.sizes_between(4, 256 * MI, 4):
                self.assertEqual(sum(band.low <= size <= band.high for band in bands), 1, size)

    def test_the_summary_names_what_is_missing(self):
        by_sweep = {("all_reduce", 2): measured({"lockstep_backend": {4: 1}, "mpich": {4: 2}})}
        text = requirements.summary(requirements.judge_all(by_sweep), by_sweep)
        self.assertIn("Not compared with gloo, openmpi, torch_gloo", text)
        self.assertEqual(text.count("\n| "), len(requirements.REQUIREMENTS))


class Hosts(unittest.TestCase):
    LINKS = network.Network(hosts=4, nproc_per_host=2, rate="100mbit", delay_us=500)

    def measured(self, times):
        found = results.Results(lambda size: self.LINKS.limit_us("all_reduce", size))
        for name, by_size in times.items():
            found.add(name, [{"bytes": size, "p50_us": us, "wrong": 0} for size, us in by_size.items()])
        return found

    def test_rates(self):
        self.assertEqual([network.parse_rate(text) for text in ("1gbit", "100mbit", "64kbit")],
                         [10 ** 9, 10 ** 8, 64000])
        for wrong in ("", "fast", "0mbit", "1", "1gbit/s"):
            self.assertRaises(ValueError, network.parse_rate, wrong)

    def test_the_limit_is_a_delay_and_the_bytes_of_a_link(self):
        self.assertEqual(self.LINKS.limit_us("all_reduce", 0), 500)
        # 1.5 times 956,000 bytes are 1,434,000, and a link takes 95.6 of its 100 Mbit/s in payload.
        self.assertAlmostEqual(self.LINKS.limit_us("all_reduce", 956000), 500 + 120000)
        self.assertAlmostEqual(self.LINKS.limit_us("all_gather", 956000), 500 + 60000)
        self.assertIsNone(self.LINKS.limit_us("sendrecv", 4))

    def sweep(self, *names):
        return programs.Sweep("all_reduce", 8, [4], 4, 0.1, 1, self.LINKS,
                              [programs.Program(name, [], {}) for name in names])

    def test_the_fastest_of_ours_is_judged(self):
        found = self.measured({"lockstep_gloo": {4: 900, 9560000: 2e6}, "lockstep_hier": {4: 800, 9560000: 1.25e6},
                               "gloo_ring": {4: 4000, 9560000: 1.3e6}, "openmpi": {4: 700}})
        sweep = self.sweep("lockstep_hier", "openmpi", "mpich")
        text = network.verdicts(sweep, found)
        self.assertIn("best peer: **fails**, worst at 4 B: 0.88 x (openmpi)", text)
        self.assertIn("1 MiB: holds, worst at 9560000 B: 96 %", text)
        self.assertIn("| 4 B | 800 | 700 | - | 501 | openmpi | lockstep_hier | 0.88 x | - |",
                      network.table(sweep, found))

    def test_what_auto_chooses_is_judged_alone(self):
        found = self.measured({"lockstep_auto": {4: 4000, 16: 600}, "lockstep_mpi": {4: 600},
                               "openmpi": {4: 1000, 16: 900}})
        text = network.verdicts(self.sweep(), found)
        self.assertIn("best peer: holds, worst at 16 B: 1.50 x (openmpi)", text)
        self.assertIn("`auto` chooses: **fails**, worst at 4 B: 0.25 x (openmpi)", text)

    def test_no_share_of_the_limit_where_a_burst_matters(self):
        found = self.measured({"lockstep_gloo": {600 * KI: 1e5, MI: 1.5e5}})
        table = network.table(self.sweep("lockstep_gloo"), found)
        self.assertRegex(table, r"600 KiB .* - \|\n.* 1 MiB .* 88 %")
        with unittest.mock.patch.object(network, "BULK_BYTES", KI):
            self.assertIn("worst at 1 MiB: 88 %", network.verdicts(self.sweep(), found))

    def test_open_mpi_has_both_ways_of_the_wire(self):
        with tempfile.TemporaryDirectory() as directory:
            for name in ("hosts", "lockstep", "openmpi_bench"):
                (pathlib.Path(directory) / name).touch(0o755)
            with unittest.mock.patch("shutil.which", lambda name: name):
                found = network.find_programs(pathlib.Path(directory), "all_reduce", self.LINKS, 2)
        commands = {program.name: " ".join(program.command) for program in found}
        self.assertNotIn("btl_tcp_flags", commands["openmpi"])
        self.assertRegex(commands["openmpi_send"], "--mca btl_tcp_flags 1 .*/openmpi_bench --peer openmpi_send$")

    def test_who_goes_past_the_links_does_not_count(self):
        found = self.measured({"lockstep_auto": {4: 1, 16: 600}, "lockstep_gloo": {4: 600, 16: 600},
                               "mpich": {4: 650, MI: 9000}, "gloo_ring": {4: 700, 16: 700}})
        sweep = self.sweep("lockstep_auto", "lockstep_gloo", "mpich", "gloo_ring")
        text = network.verdicts(sweep, found)
        self.assertIn("**lockstep_auto does not count**: at 4 B", text)
        self.assertIn("**mpich does not count**: at 1 MiB", text)
        self.assertIn("best peer: holds, worst at 4 B: 1.17 x (gloo_ring)", text)

    def test_an_idle_link_takes_its_burst_at_once(self):
        self.assertTrue(self.LINKS.is_possible("all_reduce", 64 * KI, 500))
        self.assertFalse(self.LINKS.is_possible("all_reduce", 64 * KI, 499))
        self.assertFalse(self.LINKS.is_possible("all_reduce", 128 * KI, 500))

    def test_without_ours_there_is_no_verdict(self):
        found = self.measured({"gloo_ring": {4: 4000}})
        self.assertIn("No verdict", network.verdicts(self.sweep("gloo_ring"), found))


def step_rows(model, shares, vs_pytorch, extra_mib=1.0):
    """As step_bench prints them: a round for each share, and memory."""
    rows = []
    common = {"model": model, "nproc": 2, "threads": 1, "params": 1000, "torch": "1.13", "environment": {}}
    for number, share in enumerate(shares, 1):
        for peer in ("lockstep", "pytorch"):
            row = {**common, "event": "step", "peer": peer, "round": number, "step_ms": 2.5, "faults": 3.0}
            rows.append({**row, "mode": "nosync", "samples_per_s": 2000.0})
            rows.append({**row, "mode": "ddp", "samples_per_s": 2000 * share, "share": share})
        rows[-3] |= {"vs_pytorch": vs_pytorch, "hooks_ms": 0.75, "wait_ms": 0.25, "sentinel_percent": 0.5}
        rows.append({**rows[-4], "mode": "barrier", "share": 0.975})
    memory = {**common, "event": "memory", "peer": "lockstep", "bytes": 1 << 20, "resident_bytes": 2 << 20}
    return rows + [{**memory, "mode": "nosync"}, {**memory, "mode": "ddp", "extra_bytes": int(extra_mib * MI),
                                                    "extra_resident_bytes": 0}]


HOST_COST = {"event": "host_cost", "peer": "lockstep", "ns_per_parameter": 999.0, "torch": "1.13", "environment": {}}


class Steps(unittest.TestCase):
    def verdicts(self, rows):
        return {verdict.required: verdict.text for verdict in steps.judge(steps.StepResults(rows))}

    def test_the_median_of_the_rounds_decides(self):
        texts = self.verdicts(step_rows("mlp", [0.5, 0.94, 0.95], 1.6))
        self.assertEqual(texts["mlp: DDP keeps 0.94 of the speed without synchronisation"], "holds")
        self.assertEqual(texts["mlp: 1.6 x PyTorch's DDP on Gloo"], "holds")
        self.assertEqual(texts["gpt: 1.07 x PyTorch's DDP on Gloo"], "not measured")

    def test_what_falls_short(self):
        texts = self.verdicts(step_rows("lenet", [0.485], 1.49, extra_mib=4) + [HOST_COST])
        self.assertEqual(texts["lenet: DDP keeps 0.97 of the speed without synchronisation"], "**short by 50 %**")
        self.assertEqual(texts["lenet: 1.5 x PyTorch's DDP on Gloo"], "**short by 1 %**")
        self.assertEqual(texts["lenet: at most 2 MiB more memory of a rank than training alone"], "**short by 50 %**")
        self.assertEqual(texts["hooks, bookkeeping and launch: under 1 us a parameter and step"], "holds")

    def test_under_is_not_at(self):
        texts = self.verdicts([{**HOST_COST, "ns_per_parameter": 1000.0}])
        self.assertIn("short", texts["hooks, bookkeeping and launch: under 1 us a parameter and step"])

    def test_one_count_of_what_was_measured(self):
        text = steps.summary(steps.judge(steps.StepResults(step_rows("mlp", [0.95], 1.0))))
        self.assertIn("3 of 4 that were measured hold.", text)

    def test_the_report_and_its_plot(self):
        rows = step_rows("mlp", [0.9], 2.0) + step_rows("resnet18", [1.25], 3.0) + [HOST_COST]
        with tempfile.TemporaryDirectory() as directory:
            folder = pathlib.Path(directory)
            _, path = steps.write(steps.Measured(rows), folder, "steps_machine")
            text = path.read_text()
            lines = [json.loads(line) for line in (folder / "steps_machine.jsonl").read_text().splitlines()]
            picture = (folder / "steps_machine.svg").read_text()
        self.assertEqual(lines, rows)
        self.assertIn("| mlp, 2 ranks of 1 thread | 1,000 | 2,000 | 1,800 | **90.0 %** | 2,000 | 1,800 | 90.0 % | "
                      "**2.00 x** |", text)
        self.assertIn("| mlp, 2 ranks of 1 thread | 2.50 | 0.75 | 0.25 | 0.50 % | 97.5 % | 2.50 | 3 | 3 |", text)
        self.assertIn("| mlp, 2 ranks of 1 thread | 0.0 | 1.0 (2.0) | 1.0 (2.0) | 1.0 (0.0) | - (-) |", text)
        self.assertIn("999 ns a parameter and step", text)
        xml.etree.ElementTree.fromstring(picture)
        for words in ("mlp", "resnet18", "90.0", "125.0", "Lockstep", "PyTorch on Gloo"):
            self.assertIn(f">{words}</text>", picture)

    def test_rows_before_a_failure_are_kept(self):
        with tempfile.TemporaryDirectory() as directory:
            folder = pathlib.Path(directory)
            fails = folder / "step_bench"
            fails.write_text(f"#!/bin/sh\necho '{json.dumps(HOST_COST)}'\nexit 3\n")
            fails.chmod(0o755)
            found = steps.measure(str(fails), 1, False, False)
            with self.assertRaisesRegex(SystemExit, "--rounds 1 ended with code 3; the 1 rows"):
                steps.write(found, folder, "steps_machine")
            self.assertEqual(json.loads((folder / "steps_machine_unfinished.jsonl").read_text()), HOST_COST)

    def test_a_command_line_that_contradicts_itself(self):
        compare = pathlib.Path(__file__).resolve().parent.parent / "compare"
        for flags, said in ((["--suite"], "--steps goes with"), (["--peers", "mpich"], "--steps has one peer")):
            ended = subprocess.run([sys.executable, str(compare), "--build", "none", "--steps", *flags],
                                   capture_output=True, text=True)
            self.assertEqual(ended.returncode, 2)
            self.assertIn(said, ended.stderr)


# Prints a result for each size; at the size argv[1] it waits to be ended.
HANGS = """
import json, signal, sys
flags = ("--min-bytes", "--max-bytes", "--step-factor")
low, high, factor = (int(sys.argv[sys.argv.index(flag) + 1]) for flag in flags)
while low <= high:
    if low == int(sys.argv[1]):
        signal.pause()
    print(json.dumps({"event": "result", "bytes": low, "p50_us": 1.0, "wrong": 0}), flush=True)
    low *= factor
"""


class Silence(unittest.TestCase):
    def runner(self, script, *arguments, patience=20.0, start_seconds=30):
        program = programs.Program("fake", [sys.executable, "-c", script, *arguments], {}, start_seconds)
        sweep = programs.Sweep("all_reduce", 2, [4, 16, 64, 256], 4, 0.1, patience, [program])
        return programs.Runner(sweep), program

    def sizes(self, runner, program):
        return [row["bytes"] for row in runner.run(program)]

    def test_a_program_that_answers_is_run_once(self):
        runner, program = self.runner(HANGS, "5")
        self.assertEqual(self.sizes(runner, program), [4, 16, 64, 256])
        self.assertEqual((runner.silent, runner.failed), ({"fake": []}, {}))

    def test_a_silent_size_is_left_out_and_the_next_are_measured(self):
        runner, program = self.runner(HANGS, "16", patience=3.0)
        self.assertEqual(self.sizes(runner, program), [4, 64, 256])
        self.assertEqual(runner.silent, {"fake": [16]})
        self.assertEqual(self.sizes(runner, program), [4, 64, 256])  # The next round does not wait for it again.
        self.assertIn("fake gave no result within 3 s for 16 B.", report.troubles(runner)[0])

    def test_one_that_never_answers_is_given_up(self):
        runner, program = self.runner("import signal; signal.pause()", patience=0.2, start_seconds=0)
        self.assertEqual(self.sizes(runner, program), [])
        self.assertEqual(runner.silent, {"fake": [4, 16]})
        self.assertIn("left out from then on", report.troubles(runner)[0])

    def test_one_that_fails_is_left_out_with_its_reason(self):
        runner, program = self.runner("import sys; sys.exit('no such peer')")
        self.assertEqual(self.sizes(runner, program), [])
        self.assertEqual(runner.failed, {"fake": "exit code 1: no such peer"})

    def test_one_that_fails_after_results_is_named(self):
        runner, program = self.runner(HANGS.replace("signal.pause()", "sys.exit('no more')"), "16")
        self.assertEqual(self.sizes(runner, program), [4])
        self.assertEqual(report.troubles(runner), ["- fake failed after some of its results: exit code 1: no more"])

    def test_the_programs_own_word_counts_before_its_launchers(self):
        self.assertEqual(programs.reason(b"lockstep run: its last lines:\n    bench: no\nlockstep run: node 1\n"),
                         "bench: no")
        self.assertEqual(programs.reason(b"lockstep run: no such program\n"), "lockstep run: no such program")
        self.assertEqual(programs.reason(b"lockstep bench: no\nmpirun: aborted.\n----\n"), "lockstep bench: no")
        self.assertEqual(programs.reason(b"mpirun: aborted.\n----\n"), "mpirun: aborted.")
        self.assertEqual(programs.reason(b""), "it said nothing")


class Machine(unittest.TestCase):
    def test_a_cache_of_unknown_size_is_left_out(self):
        with tempfile.TemporaryDirectory() as directory:
            for index, names in ((0, ("level", "type")), (2, ("level", "type", "size"))):
                (pathlib.Path(directory) / f"index{index}").mkdir()
                for name in names:
                    (pathlib.Path(directory) / f"index{index}" / name).write_text({"level": "2"}.get(name, "1M") + "\n")
            self.assertEqual(report.caches(pathlib.Path(directory)), "L2 1M")


if __name__ == "__main__":
    unittest.main()
