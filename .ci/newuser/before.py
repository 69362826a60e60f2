"""What a trainer has around the README's loop: a checkpoint that is saved and read, and something to train."""
import atexit, hashlib, itertools, os, signal, sys, time
import jetbatch

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
checkpoint = open("checkpoint").read() if os.path.exists("checkpoint") else None
atexit.register(lambda: open("checkpoint", "w").write(str(checkpoint)))
left = itertools.count(int(os.environ.get("BATCHES", "1000000")) - 1, -1)


def train(x, y):
    time.sleep(0.02)  # most of the time, so that this is where an interruption comes
    print(hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest(), flush=True)
    if next(left) == 0:
        raise SystemExit


