"""Tests of tools/trace_picture, on traces of its own making."""
import importlib.machinery
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as tree

sys.dont_write_bytecode = True
PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "tools" / "trace_picture"
LOADER = importlib.machinery.SourceFileLoader("trace_picture", str(PROGRAM))
trace_picture = importlib.util.module_from_spec(importlib.util.spec_from_loader("trace_picture", LOADER))
LOADER.exec_module(trace_picture)

SVG = "{http://www.w3.org/2000/svg}"


def meta(pid, tid, name, value):
    return {"ph": "M", "pid": pid, "tid": tid, "name": name, "args": {"name": value}}


def span(pid, tid, name, category, start, length, **args):
    """Times in milliseconds."""
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "cat": category, "ts": start * 1000, "dur": length * 1000,
            "args": args}


def two_steps(ranks=2):
    """Steps 7 and 8 of 20 ms each; rank r is r milliseconds late."""
    events = []
    for pid in range(ranks):
        events.append(meta(pid, 0, "process_name", f"rank {pid} (here, local rank {pid})"))
        for tid, name in enumerate(("step", "compute", "wait", "communication"), 1):
            events.append(meta(pid, tid, "thread_name", name))
        for step in (0, 1):
            begin = 20 * step + pid
            events += [span(pid, 1, f"step {7 + step}", "step", begin, 20),
                       span(pid, 2, "forward", "compute", begin, 8),
                       span(pid, 2, "backward", "compute", begin + 8, 10),
                       span(pid, 2, "optimizer", "compute", begin + 18, 2),
                       span(pid, 3, "wait", "wait", begin + 17, 1),
                       span(pid, 4, "bucket 0", "communication", begin + 10, 8, bytes="4096",
                            parameters="fc.weight <2>")]
    return events


def text_of(events):
    return json.dumps({"traceEvents": events})


def picture_of(events, **more):
    return tree.fromstring(trace_picture.draw(trace_picture.read_trace(text_of(events)), **more))


def rects(picture, kind):
    """(x, width) of each box of a class."""
    return [(float(box.get("x")), float(box.get("width"))) for box in picture.iter(SVG + "rect")
            if box.get("class") == kind and box.find(SVG + "title") is not None]


def words(picture):
    return [text.text for text in picture.iter(SVG + "text")]


class Drawing(unittest.TestCase):
    def test_every_span_has_its_place_in_time(self):
        picture = picture_of(two_steps(), steps="7:1")  # from 0 to 21 ms
        scale = (trace_picture.WIDTH - trace_picture.LEFT - trace_picture.RIGHT) / 21
        for kind, start, length in (("forward", 0, 8), ("backward", 8, 10), ("optimizer", 18, 2), ("wait", 17, 1),
                                    ("communication", 10, 8)):
            # In the picture of step 7 the first millisecond of rank 0's step 8 is seen as well.
            boxes = rects(picture, kind)
            self.assertEqual(len(boxes), 3 if kind == "forward" else 2, kind)
            for rank, (x, width) in zip((0, 1), (boxes[0], boxes[-1])):
                self.assertAlmostEqual(x, trace_picture.LEFT + (start + rank) * scale, delta=0.01)
                self.assertAlmostEqual(width, length * scale, delta=0.02)

    def test_says_what_it_shows(self):
        said = words(picture_of(two_steps()))
        for expected in ("Steps 7 to 8 on 2 ranks: 41.0 ms", "rank 0", "here, local rank 1", "compute", "wait",
                         "communication", "forward: 8.00 ms", "step 8: 20.0 ms", "0", "40", "ms"):
            self.assertIn(expected, said)
        self.assertIn("Step 8 on 1 rank: 20.0 ms", words(picture_of(two_steps(1), steps="8:5")))
        self.assertIn("My run", words(picture_of(two_steps(), title="My run")))

    def test_details_are_at_the_pointer(self):
        titles = [title.text for title in picture_of(two_steps(1)).iter(SVG + "title")]
        self.assertIn("bucket 0: 8.00 ms\nbytes: 4096\nparameters: fc.weight <2>", titles)

    def test_legend_holds_what_is_there(self):
        said = words(picture_of([event for event in two_steps(1) if event.get("cat") != "wait"]))
        self.assertIn("optimizer", said)
        self.assertNotIn("waiting for it", said)
        strange = two_steps(1) + [meta(0, 9, "thread_name", "disk"), span(0, 9, "read", "disk", 1, 2)]
        self.assertEqual(len(rects(picture_of(strange), "other")), 1)

    def test_a_span_within_another_is_smaller(self):
        inner = span(0, 2, "layer 1", "compute", 2, 3)
        picture = picture_of(two_steps(1) + [inner])
        heights = {box.find(SVG + "title").text.split(":")[0]: float(box.get("height"))
                   for box in picture.iter(SVG + "rect") if box.find(SVG + "title") is not None}
        self.assertLess(heights["layer 1"], heights["forward"])
        self.assertEqual(heights["backward"], heights["forward"])

    def test_numbers_only_where_there_is_room(self):
        events = two_steps(1) + [span(0, 4, "bucket 31", "communication", 20, 0.001)]
        self.assertNotIn("31", words(picture_of(events)))
        self.assertIn("bucket 0: 8.00 ms", words(picture_of(events, steps="7:1")))
        self.assertEqual(list(trace_picture.labels_of(trace_picture.Span("bucket 3", "communication", 0, 1, {}))),
                         ["bucket 3: 1.00 ms", "bucket 3", "3"])

    def test_is_the_same_each_time(self):
        text = text_of(two_steps(3))
        self.assertEqual(trace_picture.draw(trace_picture.read_trace(text)),
                         trace_picture.draw(trace_picture.read_trace(text)))


class Ticks(unittest.TestCase):
    def test_are_round_and_few(self):
        for length, step in ((10, 1), (11, 2), (20, 2), (21, 5), (50, 5), (51, 10), (0.1, 0.01), (1234, 200)):
            self.assertAlmostEqual(trace_picture.tick_step(length), step)

    def test_are_written_without_noise(self):
        self.assertEqual([text for _, text in trace_picture.Picture(5, 5.3).ticks()],
                         ["0.00", "0.05", "0.10", "0.15", "0.20", "0.25", "0.30"])
        self.assertEqual([text for _, text in trace_picture.Picture(0, 30).ticks()],
                         ["0", "5", "10", "15", "20", "25", "30"])


class Mistakes(unittest.TestCase):
    def run_on(self, content, *flags):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "trace.json"
            file.write_text(content)
            return subprocess.run([sys.executable, PROGRAM, file, *flags], capture_output=True, text=True, check=False)

    def test_are_one_line(self):
        good = text_of(two_steps())
        for content, flags, expected in (
                ("nothing", (), r"trace\.json: no trace of lockstep"),
                ("[]", (), "no trace of lockstep"),
                ('{"traceEvents":[{"ph":"X"}]}', (), "no trace of lockstep"),
                ('{"traceEvents":[]}', (), "has no spans"),
                (good, ("--steps", "9:1"), r"--steps 9:1: no such step; it has 7 to 8"),
                (good, ("--steps", "9"), r"--steps '9': expected FIRST:COUNT"),
                (good, ("--output", "/no/such/folder/x.svg"), r"/no/such/folder/x\.svg: No such file")):
            with self.subTest(expected):
                ended = self.run_on(content, *flags)
                self.assertEqual((ended.returncode, ended.stdout, ended.stderr.count("\n")), (2, "", 1), ended.stderr)
                self.assertRegex(ended.stderr, "^trace_picture: .*" + expected)

    def test_none(self):
        ended = self.run_on(text_of(two_steps()))
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        self.assertTrue(re.match(r"<svg [^>]*viewBox=\"0 0 1000 \d+\"", ended.stdout))


if __name__ == "__main__":
    unittest.main()
