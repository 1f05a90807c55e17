"""One part of a fuzzer: a random source that can be had again by its seed, and what was found wrong.

A part makes its cases until its time is over, or as many as were asked for. Each case has a random source of its own, by the seed
and its number. A kind of mistake is printed once, with the case that showed it first, and counted.
"""

import collections
import random
import re
import threading
import time

from supervisor import over

# What a terminal obeys, but for the tabulator.
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Part:
    def __init__(self, name, binary, seconds, seed, limit):
        self.name, self.binary, self.seconds, self.seed, self.limit = name, binary, seconds, seed, limit
        self.end = time.monotonic() + seconds
        self.count = 0
        self.kinds = collections.Counter()
        self.figures = {}
        self.lock = threading.Lock()

    def cases(self):
        """The number and the random source of each case. Several threads may ask."""
        while (self.limit or time.monotonic() < self.end) and not over.is_set():
            with self.lock:
                if self.count == self.limit:
                    return
                self.count += 1
                number = self.count
            yield number, random.Random(f"{self.seed}/{self.name}/{number}")

    def wrong(self, kind, detail):
        with self.lock:
            self.kinds[kind] += 1
            if self.kinds[kind] == 1:
                print(f"WRONG {self.name}: {kind}\n    {detail}", flush=True)

    def peak(self, name, value):
        """Keeps the greatest value of a figure."""
        with self.lock:
            self.figures[name] = max(self.figures.get(name, 0), value)

    def on_threads(self, count, body):
        def guarded():
            try:
                body()
            except Exception as error:  # a mistake of the script's own must not look like success
                self.wrong("the script itself has failed", repr(error))
                raise

        threads = [threading.Thread(target=guarded) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def escaped(data):
    """Bytes as they are shown: what is no UTF-8 and what is a control character as `\\xNN`."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", data.decode("utf-8", "backslashreplace"))


def is_control(char):
    return CONTROL.fullmatch(char) is not None
