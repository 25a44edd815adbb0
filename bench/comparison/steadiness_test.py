"""Tests of runs that are made again since cores were far from each other; comparison_test.py runs them."""
import unittest

from comparison import steadiness


class MovingCores(unittest.TestCase):
    def watch(self, *handoffs, then=50):
        """Sees these hand-offs, one a look, and others afterwards."""
        seen = iter(handoffs)

        def measure():
            handoff = next(seen, then)
            return {"measured": True, "handoff_ns": handoff, "handoff_ns_after": handoff}
        return steadiness.Watch(measure)

    def runs(self, watch):
        """How often a program was run for one result."""
        made = []
        self.assertEqual(watch.run(lambda: made.append(None) or [len(made)]), [len(made)])  # The last one counts.
        return len(made)

    def test_near_cores_are_run_on_once(self):
        watch = self.watch(50, 60, 33)
        self.assertEqual((self.runs(watch), self.runs(watch), watch.repeated), (1, 1, 0))

    def test_a_run_that_ends_with_far_cores_is_made_again(self):
        watch = self.watch(50, 250)
        self.assertEqual((self.runs(watch), watch.repeated), (2, 1))
        self.assertIn("1 run(s) began", watch.says())
        self.assertNotIn("all the same", watch.says())

    def test_a_run_waits_for_near_cores(self):
        watch = self.watch(50, 250, 250)
        watch.look()
        self.assertEqual((self.runs(watch), watch.repeated), (1, 0))

    def test_cores_that_stay_apart_are_said(self):
        for near in (2, 3, 4):
            watch = self.watch(*[50] * near, then=250)
            for _ in range(near - 1):
                watch.look()
            self.assertEqual(self.runs(watch), 1 + steadiness.REPEATS)
            self.assertIn("**1 of 1 count all the same**", watch.says())

    def test_cores_that_stay_apart_for_long_do_not_become_near(self):
        watch = self.watch(*[50] * 11, then=250)
        for _ in range(20):
            watch.run(lambda: [1])
        self.assertEqual(watch.near(), 50)
        self.assertIn("**10 of 20 count all the same**", watch.says())

    def test_cores_that_were_apart_at_first_are_said(self):
        watch = self.watch(250, 250, 250)
        self.assertEqual((self.runs(watch), self.runs(watch), self.runs(watch), self.runs(watch)), (1, 1, 2, 1))
        self.assertIn("**2 of 4 count all the same**", watch.says())

    def test_a_moment_on_one_core_is_not_what_near_cores_are(self):
        watch = self.watch(15, then=120)
        for _ in range(10):
            watch.look()
        self.assertEqual((self.runs(watch), watch.near()), (1, 120))
        self.assertIn("15 to 120 ns; 0 run(s) began", watch.says())

    def test_a_program_that_is_left_out_keeps_what_it_measured(self):
        watch, answers = self.watch(50, 250), iter([[1, 2], []])
        self.assertEqual(watch.run(lambda: next(answers)), [1, 2])

    def test_where_nothing_is_measured_nothing_is_repeated(self):
        watch = steadiness.Watch(lambda: {"measured": False})
        self.assertEqual((self.runs(watch), watch.says()), (1, "The hand-off between cores was not measured."))
