"""The same two cores of a virtual machine are at times near each other, at times far: for a second, or for minutes."""
import statistics

FAR = 2.0    # times the usual hand-off: what a program takes then can't be compared with what another takes else
REPEATS = 3  # of one run
LOOKS = 5    # at cores that are far, before a run is made although


class Watch:
    """Looks at the hand-off between two cores before and after each run, and has it run again where they were apart.

    `measure` returns the machine's limits, as programs.measure_limits() does.
    """

    def __init__(self, measure):
        self.measure = measure
        self.handoffs = []
        self.repeated = 0  # runs that were made again
        self.apart = 0     # runs that count although the cores were apart, since they stayed so
        self.limits = None
        self.look()

    def look(self):
        self.limits = self.measure()
        if self.limits.get("measured"):
            self.handoffs += [self.limits["handoff_ns"], self.limits["handoff_ns_after"]]
        return self.limits

    def are_far(self, handoff):
        """Whether the cores are: by "handoff_ns", of the last look's beginning, or "handoff_ns_after", of its end."""
        return self.limits.get("measured", False) and self.limits[handoff] > FAR * statistics.median(self.handoffs)

    def run(self, program):
        """What `program()` returns, of the first run that began and ended with near cores."""
        for repeat in range(REPEATS + 1):
            for _ in range(LOOKS):
                if not self.are_far("handoff_ns_after"):
                    break
                self.look()
            far = self.are_far("handoff_ns_after")
            result = program()
            self.look()
            if not far and not self.are_far("handoff_ns"):
                return result
            if repeat < REPEATS:
                self.repeated += 1
        self.apart += 1
        return result

    def says(self):
        if not self.handoffs:
            return "The hand-off between cores was not measured."
        text = (f"Hand-off between the cores: {min(self.handoffs):.0f} to {max(self.handoffs):.0f} ns, mostly "
                f"{statistics.median(self.handoffs):.0f}; {self.repeated} run(s) began or ended with cores more "
                f"than {FAR:g} times as far apart, and were made again")
        return text + (f"; **{self.apart} count although, since the cores stayed apart**." if self.apart else ".")
