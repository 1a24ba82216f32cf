"""Real faults during real searches: what breaks is tried again or recorded, and the search goes on.

    python -m tests.benchmarks.fault_test
    python -m tests.benchmarks.fault_test --only a,e

Run it from the repository's root; a full disk (d) needs the right to mount a tmpfs. The parts:

    a  trial processes are killed with -9: tried again from their checkpoint, recorded as failed after --max-failures
    b  a trial process is stopped (SIGSTOP): ended after --trial-timeout, recorded as failed
    c  an MLflow server is killed during the search: it comes back, or only --resync finds it
    d  the disk of the search's folder is full: trials fail with that reason, --resume completes the search
    e  SIGINT and SIGTERM: exit status 130 and 143, nothing left open, the command that is printed goes on
    f  --time-budget: the command ends in time and is resumed
    g  a learning rate at which the loss is NaN: recorded as diverged, not tried again
    h  the driver alone is killed with -9 and the search resumed at once
    i  a process is killed with -9 while it trains a candidate again, and one while it confirms the front

Each part prints a line a check, with numbers; the exit status is 1 if any failed.
"""

import argparse
import errno
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from analysis.results import CONFIRMATION
from search_spaces import resolve
from tests.benchmarks.kill_test import A_DEATH, never_up
from tests.mirror import Server
from tests.processes import patience
from tests.searches import (
    DATABASE,
    NAME,
    OUTPUT,
    Search,
    check,
    check_all,
    check_mirror,
    events,
    mirror,
    records,
    runs,
    send,
    state_of,
    trained,
)
from tune_fairlora.record.event_log import read_events
from tune_fairlora.record.state import COMPLETE, DIVERGED, FAILED, RUNNING

SILENCE = 20


def begin(folder: Path, trials: int, *options: object) -> Search:
    """A search whose Ray is up."""
    new = ["--space", "digits", "--trials", trials, "--name", NAME, *options]
    while not (search := Search(folder, *new)).until(lambda: events(folder)) and never_up(folder):
        continue
    return search


def finish(folder: Path, *options: object) -> int:
    """The exit status of a command that may take all its time."""
    while (status := Search(folder, *options).wait()) and never_up(folder):
        continue
    return status


def space(epochs: int):
    return resolve("digits").with_changes({}, None, epochs=epochs)


def output(folder: Path) -> str:
    return (folder / OUTPUT).read_text()


def reported(folder: Path, number: int) -> list[dict]:
    return [e for e in events(folder) if e["event"] == "epoch" and e["number"] == number]


def ended(folder: Path) -> int:
    return sum(entry["event"] == "end" for entry in events(folder))


def hit(search: Search, folder: Path, number: int, epoch: int, what: int) -> int:
    """Send ``what`` to the process of a trial as soon as it has reported ``epoch``; its pid."""
    if not search.until(lambda: len(reported(folder, number)) >= epoch):
        search.kill()
        raise TimeoutError(f"trial {number} never reported epoch {epoch}: {output(folder)[-2000:]}")
    pid = reported(folder, number)[-1]["pid"]
    os.kill(pid, what)
    return pid


def lost_epochs(folder: Path) -> dict[int, int]:
    """How many epochs of each trial were begun again, as they were not saved when its process died: ``A_DEATH`` at
    most each time."""
    numbers = {(t.config_id, t.seed): t.number for t in state_of(folder).trials.values()}
    times = Counter(trained(folder))
    return dict(Counter(numbers[key[:2]] for key in times.elements()) - Counter(numbers[key[:2]] for key in times))


def processes_killed(folder: Path, seed: int) -> bool:
    """Trial 0 is killed once more than it may fail, trial 1 once."""
    rng, epochs = random.Random(seed), 8
    search = begin(folder, 4, "--epochs", epochs, "--scheduler", "none", "--max-failures", 2, "--max-concurrent", 1)
    at = [sorted(rng.sample(range(1, epochs - 1), 3)), [rng.randrange(1, epochs - 1)]]
    pids = [[hit(search, folder, number, epoch, signal.SIGKILL) for epoch in at[number]] for number in (0, 1)]
    good = check(search.wait() == 0, f"a: exit status 0 after kill -9 of {pids} behind the epochs {at}")
    first, second, *others = state_of(folder).trials.values()
    text = f"a: trial 0 {first.status} after {first.faults} faults and {len(first.epochs)} epochs: {first.reason[:90]}"
    good &= check(first.status == FAILED and first.faults == 3 and first.reason, text)
    text = f"a: trial 1 {second.status} after {second.faults} fault and {len(second.epochs)} epochs"
    good &= check((second.status, second.faults, len(second.epochs)) == (COMPLETE, 1, epochs), text)
    lost = lost_epochs(folder)
    good &= check(
        lost.get(0, 0) <= 2 * A_DEATH and lost.get(1, 0) <= A_DEATH, f"a: epochs trained again by trial: {lost}"
    )
    good &= check({t.status for t in others} == {COMPLETE}, f"a: the other {len(others)} complete")
    return good & check_all(folder, space(epochs), 4)


def candidates_killed(folder: Path, seed: int) -> bool:
    options = ("--epochs", 4, "--scheduler", "none", "--confirm-seeds", 1, "--max-concurrent", 1)
    search = begin(folder, 8, *options)
    search.until(lambda: any(trial.repeats is not None for trial in state_of(folder).trials.values()))
    again = next((trial.number for trial in state_of(folder).trials.values() if trial.repeats is not None), -1)
    pids = [hit(search, folder, again, 1, signal.SIGKILL)]

    def fresh_epochs() -> list[dict]:
        entries = read_events(runs(folder) / CONFIRMATION) if len(records(folder)) > 1 else []
        return [entry for entry in entries if entry["event"] == "epoch"]

    if search.until(fresh_epochs):
        pids.append(fresh_epochs()[0]["pid"])
        os.kill(pids[-1], signal.SIGKILL)
    status = search.wait()
    good = check(status == 0 and len(pids) == 2, f"i: exit status {status} after kill -9 of {pids}")
    trial, (_, fresh) = state_of(folder).trials[again], records(folder)[-1]
    text = f"i: trial {again}, which repeats {trial.repeats}, {trial.status} after {trial.faults} fault"
    good &= check((trial.status, trial.faults) == (COMPLETE, 1), text)
    text = f"i: of {len(fresh.trials)} fresh trainings {fresh.count(COMPLETE)} complete, {fresh.trials[0].faults} fault"
    good &= check(fresh.count(COMPLETE) == len(fresh.trials) and fresh.trials[0].faults == 1, text)
    front = {state_of(folder).trials[n].config_id for n in state_of(folder).front()}
    good &= check({t.config_id for t in fresh.trials.values()} == front, f"i: of {len(front)} points of the front")
    return good & check_all(folder, space(4), 8)


def process_stopped(folder: Path, seed: int) -> bool:
    epoch = random.Random(seed).randrange(1, 5)
    search = begin(folder, 3, "--epochs", 6, "--scheduler", "none", "--trial-timeout", f"{patience(SILENCE):.0f}s")
    pid = hit(search, folder, 0, epoch, signal.SIGSTOP)
    begun = search.seconds
    search.until(lambda: state_of(folder).trials[0].status != RUNNING)
    silent, status = search.seconds - begun, search.wait()
    good = check(status == 0, f"b: exit status {status} with trial 0 stopped behind epoch {epoch}")
    trial, *others = state_of(folder).trials.values()
    good &= check(
        trial.status == FAILED and "hung" in trial.reason and trial.faults == 1,
        f"b: trial 0 {trial.status} {silent:.0f} s later, {trial.faults} fault: {trial.reason}",
    )
    good &= check(not Path(f"/proc/{pid}").exists(), f"b: the stopped process {pid} is gone")
    good &= check({t.status for t in others} == {COMPLETE}, f"b: the other {len(others)} complete")
    return good & check_all(folder, space(6), 3)


def server_back(folder: Path, seed: int) -> bool:
    """A server takes 10 seconds and more to start: the search must be longer."""
    server = Server(made(folder / "server"))
    try:
        server.start()
        search = begin(folder, 16, "--epochs", 8, "--scheduler", "none", "--tracking-uri", server.uri)
        search.until(lambda: ended(folder) >= 2)
        server.kill()
        search.until(lambda: ended(folder) >= 4)
        server.start()
        before, at_work = len(events(folder)), search.process.poll() is None
        status, waits = search.wait(), "events wait" in output(folder)
        after = f"killed behind trial 2, back at event {before} of {len(events(folder))}"
        good = check(status == 0 and at_work and not waits, f"c: exit status {status}, MLflow {after}")
        return good & check_mirror(mirror(server.folder / DATABASE, state_of(folder)), state_of(folder))
    finally:
        server.kill()


def server_gone(folder: Path, seed: int) -> bool:
    server = Server(made(folder / "server"))
    try:
        server.start()
        search = begin(folder, 6, "--epochs", 4, "--tracking-uri", server.uri)
        search.until(lambda: ended(folder) >= 2)
        server.kill()
        status, waiting = search.wait(), re.search(r"(\d+) events wait", output(folder))
        good = check(status == 0 and waiting, f"c: exit status {status} without MLflow, {waiting and waiting.group()}")
        server.start()
        status = finish(folder, "--resync", NAME)
        good &= check(status == 0, f"c: --resync: exit status {status}: {output(folder).splitlines()[-1]}")
        return good & check_mirror(mirror(server.folder / DATABASE, state_of(folder)), state_of(folder))
    finally:
        server.kill()


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def disk_full(folder: Path, seed: int) -> bool:
    """The search's folder alone lies on the small disk: what counts trainings beside it must not fail."""
    disk = made(folder / "runs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    try:
        search = begin(folder, 5, "--epochs", 4, "--scheduler", "none", "--max-concurrent", 1)
        hit(search, folder, 1, 1, 0)
        filled = fill(disk / "ballast")
        good = check(filled > 0, f"d: {filled >> 10} KiB more and the disk was full, trial 1 at work")
        status = search.wait()
        good &= check_full(folder, status)
        (disk / "ballast").unlink()
        status = finish(folder, "--resume", NAME, "--max-failures", 9)
        complete = state_of(folder).count(COMPLETE)
        good &= check(status == 0 and complete == 5, f"d: resumed with room: exit status {status}, {complete} complete")
        return good & check_all(folder, space(4), 5)
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def fill(path: Path) -> int:
    """Write until nothing fits any more; how many bytes did."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        return file.tell()


def check_full(folder: Path, status: int) -> bool:
    state = state_of(folder)
    counts = dict(Counter(trial.status for trial in state.trials.values()))
    good = check(status in (0, 1), f"d: exit status {status}; the record is readable: {counts}")
    said = [e["reason"] for e in events(folder) if e["event"] == "fault"] + output(folder).splitlines()
    full = [text.strip() for text in said if os.strerror(errno.ENOSPC) in text]
    ways = "go on with" in output(folder) and "Traceback" not in output(folder)
    good &= check(ways, f"d: the command says how to go on, in {len(output(folder).splitlines())} lines")
    return good & check(full, f"d: the reason is told {len(full)} times: {full[0][:150] if full else said[-3:]}")


def interrupted(folder: Path, number: signal.Signals, trials: int = 8) -> bool:
    """SIGINT goes to all processes of the terminal, as Ctrl-C does; SIGTERM to the one that was started."""
    search = begin(folder, trials, "--epochs", 4)
    search.until(lambda: ended(folder) >= 2 and state_of(folder).count(RUNNING))
    began = search.seconds
    (os.killpg if number == signal.SIGINT else os.kill)(search.pid, number)
    status = search.wait()
    text = f"e: {number.name}: exit status {status} after {search.seconds - began:.1f} s"
    good = check(status == 128 + number and not search.processes(), text)
    runs_open = [n for n, run in mirror(folder / DATABASE, state_of(folder)).items() if run["status"] == "RUNNING"]
    unended = state_of(folder).count(RUNNING)
    good &= check(not runs_open and not unended, f"e: {len(runs_open)} MLflow runs and {unended} trials left RUNNING")
    command = re.findall(r"go on with +\S+ -m tune_fairlora\.search (.*)", output(folder))
    status = finish(folder, *shlex.split(command[-1])) if command else None
    good &= check(status == 0, f"e: the command that was printed ({command and command[-1]}): exit status {status}")
    return good & check_all(folder, space(4), trials)


def signals(folder: Path, seed: int) -> bool:
    results = [interrupted(folder / each.name, each) for each in (signal.SIGINT, signal.SIGTERM)]
    return all(results)


def out_of_time(folder: Path, seed: int, budget: int = 60) -> bool:
    trials = 120
    search = begin(folder, trials, "--epochs", 4, "--time-budget", f"{budget}s")
    status, seconds, began = search.wait(), search.seconds, len(state_of(folder).trials)
    text = f"f: exit status {status} after {seconds:.1f} s of {budget} s, {began} of {trials} trials begun"
    good = check(status == 0 and seconds <= budget + patience(5) and began < trials, text)
    status = finish(folder, "--resume", NAME)
    good &= check(status == 0, f"f: resumed: exit status {status}, {ended(folder)} ends in the log")
    return good & check_all(folder, space(4), trials)


def diverges(folder: Path, seed: int) -> bool:
    status = begin(folder, 2, "--epochs", 2, "--methods", "fft", "--set", "lr=1e30").wait()
    trials, entries = state_of(folder).trials.values(), events(folder)
    again = sum(entry["event"] in ("fault", "launch") for entry in entries)
    good = check(status == 1, f"g: exit status {status}, as no trial is complete")
    found = [f"{trial.status}: {trial.reason}" for trial in trials]
    return good & check({t.status for t in trials} == {DIVERGED} and not again, f"g: {again} tried again; {found}")


def driver_killed(folder: Path, seed: int) -> bool:
    """The search is resumed at once: what the killed driver has left must not write beside it."""
    search = begin(folder, 4, "--epochs", 8, "--scheduler", "none")
    hit(search, folder, 0, random.Random(seed).randrange(1, 7), 0)
    left = {process.pid for process in search.processes()} - {search.pid}
    send({search.pid}, signal.SIGKILL)
    search.process.wait()
    status = finish(folder, "--resume", NAME)
    alive = {pid for pid in left if Path(f"/proc/{pid}").exists()}
    good = check(status == 0, f"h: exit status {status} of --resume right behind kill -9 of the driver alone")
    good &= check(not alive, f"h: of its {len(left)} processes {len(alive)} are alive at the end")
    lost = lost_epochs(folder)
    good &= check(max(lost.values(), default=0) <= A_DEATH, f"h: epochs trained again by trial: {lost}")
    return good & check_all(folder, space(8), 4)


PARTS = {
    "a": [processes_killed],
    "b": [process_stopped],
    "c": [server_back, server_gone],
    "d": [disk_full],
    "e": [signals],
    "f": [out_of_time],
    "g": [diverges],
    "h": [driver_killed],
    "i": [candidates_killed],
}


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--only", default=",".join(PARTS), help="parts by letter, with commas; default: all")
    p.add_argument("--seed", type=int, default=0, help="of the moments")
    p.add_argument("--folder", type=Path, help="default: a new one in the temporary folder")
    args = p.parse_args(argv)
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="faults-"))).resolve()
    print(f"in {folder}", flush=True)
    parts = [part for letter in args.only.split(",") for part in PARTS[letter]]
    results = [part(folder / part.__name__, args.seed) for part in parts]  # every one, also behind one that failed
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
