"""The same two cores of a virtual machine are at times near each other, at times far: for a second, or for minutes."""

FAR = 3.0    # times the hand-off of near cores: what a program takes then can't be compared with the others' times
REPEATS = 3  # of one run
LOOKS = 5    # at cores that are far, before a run is made all the same
IGNORED = 3  # least hand-offs, at most, once there are ten times as many


class Watch:
    """Looks at the hand-off between two cores before and after each run, and has it run again where they were apart.

    `measure` returns the machine's limits, as programs.measure_limits() does.
    """

    def __init__(self, measure):
        self.measure = measure
        self.handoffs = []
        self.met = []      # of each run that counts: the larger of the hand-offs at its beginning and its end
        self.repeated = 0  # runs that were made again
        self.limits = None
        self.look()

    def look(self):
        self.limits = self.measure()
        if self.limits.get("measured"):
            self.handoffs += [self.limits["handoff_ns"], self.limits["handoff_ns_after"]]
        return self.limits

    def near(self):
        """The hand-off of near cores: the least, but that of one or two looks (both on one core, say) is not theirs."""
        return sorted(self.handoffs)[min((len(self.handoffs) - 1) // 10, IGNORED)]

    def is_far(self, handoff):
        return handoff > FAR * self.near()

    def run(self, program):
        """What `program()` returns, of the first run that began and ended with near cores; else of the last one."""
        rows = []
        for repeat in range(REPEATS + 1):
            for _ in range(LOOKS):
                if not self.limits.get("measured") or not self.is_far(self.limits["handoff_ns_after"]):
                    break
                self.look()
            before = self.limits
            found = program()
            rows = found or rows  # One that is left out from now on has measured before.
            after = self.look()
            if not found or not (before.get("measured") and after.get("measured")):
                return rows
            met = max(before["handoff_ns_after"], after["handoff_ns"])
            if repeat == REPEATS or not self.is_far(met):
                self.met.append(met)
                return rows
            self.repeated += 1

    def says(self):
        if not self.handoffs:
            return "The hand-off between cores was not measured."
        text = f"Hand-off between the cores: {min(self.handoffs):.0f} to {max(self.handoffs):.0f} ns"
        if not self.met:
            return text + "."
        text += f"; {self.repeated} run(s) began or ended above {FAR * self.near():.0f} ns, and were made again"
        far = sum(map(self.is_far, self.met))  # At first it was not known how near they can be.
        return text + (f"; **{far} of {len(self.met)} count all the same**." if far else ".")
