#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The part of the comparison that runs in the virtual machine.

Owns starting the tracers, giving them connects and comparing what they print.
Does not judge costs: tests/compare.rs does, from the lines printed here.

  guest.py bytes I N   every Nth combination of options, from the Ith
  guest.py cost [NAME] instructions, memory and start, of all, or of the tools with
                       these names or of tcpconnect with these options; wants
                       QEMU's -icount
  guest.py loss        rows lost in a storm
  guest.py size        disk space of packages

The root file system is that of the peers' image. Descriptor 9 is the machine's
own, with /tcpconnect and /client and the libraries they were linked with.

Lines that begin with "@" are results, with tabs between their fields.
"""

import ctypes
import difflib
import fcntl
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

HOST = 9
BCC = "/usr/sbin/tcpconnect-bpfcc"
PEERS = {
    "BCC": [BCC],
    "libbpf-tools": ["/usr/sbin/tcpconnect"],
    "bpftrace": ["/usr/sbin/tcpconnect.bt"],
}
RUNGS = ["fentry", "kprobe", "sockops"]
BUFFERS = ["ring", "perf"]
# With the hook and the buffer that it chooses by itself.
OPTIONS = ["-j", "--wide", "-r --life"]

CGROUP = "/sys/fs/cgroup/compare"
CGROUP_MAP, MNTNS_MAP = "/sys/fs/bpf/cgroups", "/sys/fs/bpf/mntns"
UID = 65534
PORTS = "8080,9"
CLONE_NEWNS = 0x20000


def say(*words):
    print(*words, flush=True)


def result(*fields):
    say("@" + "\t".join(str(field) for field in fields))


# ---- processes --------------------------------------------------------------


def in_host(ids=None, cgroup=False, mntns=False):
    """A preexec_fn: the machine's own root, and who the process is."""

    def enter():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if cgroup:
            with open(CGROUP + "/cgroup.procs", "w") as procs:
                procs.write("0")
        if mntns and ctypes.CDLL(None).unshare(CLONE_NEWNS):
            raise OSError("unshare")
        os.fchdir(HOST)
        os.chroot(".")
        if ids is not None:
            os.setgroups([])
            os.setgid(ids)
            os.setuid(ids)

    return enter


class Client:
    """tests/client.rs, driven line by line."""

    def __init__(self, *args, **who):
        self.process = subprocess.Popen(
            ["/client", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=in_host(**who),
        )
        self.facts = [json.loads(self.process.stdout.readline())]
        self.pid = self.facts[0]["pid"]

    def run(self, case):
        """Performs one case; returns what the client says about it."""
        self.process.stdin.write(case.encode() + b"\n")
        self.process.stdin.flush()
        facts = []
        while True:
            fact = json.loads(self.process.stdout.readline())
            if "done" in fact:
                if "error" in fact:
                    raise SystemExit(f"client: {case}: {fact['error']}")
                return facts
            facts.append(fact)

    def storm(self, connects, threads=1):
        return self.run(f"storm {connects} {threads}")[0]["elapsed_ns"]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Tracer:
    """One tracer with its output in files. Ours tells when it is ready; a peer
    is ready when the last of its perf events is open."""

    count = 0

    def __init__(self, argv, ours=False):
        Tracer.count += 1
        self.out = f"/tmp/{Tracer.count}.out"
        self.err = f"/tmp/{Tracer.count}.err"
        self.pipe = None
        inherited = []
        if ours:
            self.pipe, ready = os.pipe()
            fcntl.fcntl(self.pipe, fcntl.F_SETFL, os.O_NONBLOCK)
            argv = ["/tcpconnect", "--ready-fd", str(ready), *argv]
            inherited = [ready]
        self.argv = argv
        enter = in_host() if ours else restore_sigint
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=inherited,
                preexec_fn=enter,
            )
        for fd in inherited:
            os.close(fd)

    def check_alive(self):
        if self.process.poll() is not None:
            raise SystemExit(
                f"{self.argv} ended with {self.process.returncode}: {read(self.err)}"
            )

    def perf_events(self):
        directory = f"/proc/{self.process.pid}/fd"
        count = 0
        for fd in os.listdir(directory):
            try:
                count += "perf_event" in os.readlink(f"{directory}/{fd}")
            except FileNotFoundError:
                pass
        return count

    def wait_ready(self, settle=1.0):
        """Seconds from start to ready, without the CPU time of looking."""
        seen, at, spent = 0, None, time.process_time()
        while True:
            self.check_alive()
            if self.pipe is not None:
                try:
                    if os.read(self.pipe, 1):
                        break
                except BlockingIOError:
                    pass
            now = time.monotonic()
            if self.pipe is None:
                events = self.perf_events()
                if events != seen:
                    seen, at = events, now - time.process_time() + spent
                elif at is not None and now - at > settle:
                    return at - self.started
            time.sleep(max(0.001, (now - self.started) / 100))
        took = time.monotonic() - time.process_time() + spent
        os.close(self.pipe)
        return took - self.started

    def status(self, name):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(rf"{name}:\s+(\d+)", status.read())[1])

    def cpu(self):
        """Nanoseconds on a CPU, all threads."""
        total = 0
        tasks = f"/proc/{self.process.pid}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/schedstat") as schedstat:
                total += int(schedstat.read().split()[0])
        return total

    def wait_idle(self):
        before, quiet = self.cpu(), 0
        while quiet < 3:
            time.sleep(0.2)
            now = self.cpu()
            quiet = quiet + 1 if now - before < 4_000_000 else 0
            before = now

    def send(self, number):
        self.process.send_signal(number)

    def interrupt(self):
        self.check_alive()
        self.send(signal.SIGINT)

    def printed(self):
        self.process.wait()
        return read(self.out)

    def stop(self):
        self.interrupt()
        return self.printed()


def restore_sigint():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read(path):
    with open(path, "rb") as file:
        return file.read()


# ---- bytes ------------------------------------------------------------------


def combinations(pid):
    """Every option and pair of options, as words."""
    options = [
        ["-t"],
        ["-U"],
        ["-L"],
        ["-P", PORTS],
        ["-p", str(pid)],
        ["-u", str(UID)],
        ["-4"],
        ["-6"],
        ["-c"],
        ["--cgroupmap", CGROUP_MAP],
        ["--mntnsmap", MNTNS_MAP],
        ["-d"],
    ]
    excluded = (["-4"], ["-6"]), (["-c"], ["-d"])
    pairs = itertools.combinations(options, 2)
    wanted = [a + b for a, b in pairs if (a, b) not in excluded]
    return [[]] + options + wanted


def make_maps(client):
    def hexa(number, size):
        return " ".join(f"{b:02x}" for b in number.to_bytes(size, "little"))

    def tool(*words):
        words = " ".join(words).split()
        subprocess.run(["/usr/sbin/bpftool", *words], check=True)

    facts = client.facts[0]
    cgroup = os.stat(CGROUP).st_ino
    for path, value, key in (
        (CGROUP_MAP, 8, cgroup),
        (MNTNS_MAP, 4, facts["mntns"]),
    ):
        form = f"type hash key 8 value {value} entries 1024 name chosen"
        tool("map create", path, form)
        entry = f"key hex {hexa(key, 8)} value hex {hexa(1, value)}"
        tool("map update pinned", path, entry)


# One of each address family comes first and alone, so that all tracers agree on
# the first row, which -t counts from. Left out: control_comm, which BCC prints
# raw, and the cases that are not connects.
EVERYWHERE = [
    "plain_ipv4",
    "sleep 500",
    "plain_ipv6",
    "sleep 500",
    "ipv4_mapped",
    "connect 127.0.0.1 8080",
    "connect ::1 8080",
    "connect ::ffff:127.0.0.1 8080",
    "refused",
    "refused_ipv6",
    "fork",
    "named_thread conn-worker-long",
    "storm 10",
]
# BCC may read a connect before the answer that came before it.
NAMED = [
    "dns ask recv 127.0.0.9 named.test",
    "sleep 2000",
    "connect 127.9.0.1 9",
    "connect 127.9.0.1 8080",
]


def workload(isolated, others):
    """Returns how many rows the clients say there should be."""
    listed = subprocess.run(
        ["/client", "--list"], stdout=subprocess.PIPE, preexec_fn=in_host(), text=True
    ).stdout.split()
    cases = [case for case in listed if case != "control_comm"]
    cases += ["connect 127.0.0.1 8081", "threads 16", "flows 8", "named_thread x"]
    cases += ["dns odd 127.0.0.9", *NAMED]
    # Only root may answer on port 53.
    others[1].run("dns odd 127.0.0.9")
    rows = 0
    for client, words in [(isolated, EVERYWHERE + cases)] + [
        (other, EVERYWHERE + NAMED) for other in others
    ]:
        for case in words:
            rows += sum(fact.get("rows", 0) for fact in client.run(case))
            time.sleep(0.05)
    return rows


def parts(data, combination, sort_threads):
    """Output as what precedes the rows, and {family: [(row, time)]}."""
    lines = data.decode(errors="backslashreplace").split("\n")
    if lines.pop() != "":
        lines.append("(no newline at the end)")
    table = {4: [], 6: []}
    if "-c" in combination:
        head, rows = lines[:3], lines[3:]
        for row in rows:
            table[6 if ":" in row[:25] else 4].append((row, 0))
        if rows != [row for row, _ in table[4] + table[6]]:
            head.append("(IPv6 before IPv4)")
        for family, of_it in table.items():
            counts = [int(row[-10:]) for row, _ in of_it]
            if counts != sorted(counts, reverse=True):
                head.append("(not the highest count first)")
            # Equal counts are in the order of BCC's hash table.
            table[family] = sorted(of_it)
        return head, table
    head = lines[:2]
    for row in lines[2:]:
        at = 0
        # The clocks of BCC and ours are not read at the same time.
        row = re.sub(r" \(\d+\.\d{3}ms\)$", "", row)
        if "-t" in combination:
            # BCC's time may run backwards between its two buffers.
            match = re.match(r"-?\d+\.\d{3} +", row)
            if match is None or len(match[0]) != 9:
                head.append("(no time) " + row)
                continue
            at, row = float(match[0]), row[9:]
        ip = row[6 * ("-U" in combination) + 21 :][:1]
        table[6 if ip == "6" else 4].append((row, at))
    if sort_threads:
        for family, of_it in table.items():
            runs = itertools.groupby(of_it, lambda pair: " conn-" in pair[0])
            table[family] = [
                pair for thread, run in runs for pair in (sorted(run) if thread else run)
            ]
    return head, table


def differences(theirs, ours, combination, rung):
    """What differs, and how many rows were compared.

    BCC's two buffers put rows of IPv4 and IPv6 out of order, so each family is
    compared for itself. Times may differ by what runs between the two programs.
    The sockops program runs before the connect returns, so threads that connect
    at once may come in another order.
    """
    sort_threads = rung == "sockops"
    head, table = parts(theirs, combination, sort_threads)
    our_head, our_table = parts(ours, combination, sort_threads)
    pairs = [(head, our_head)]
    found = []
    for family, of_it in table.items():
        mine = our_table[family]
        pairs.append(([row for row, _ in of_it], [row for row, _ in mine]))
        for (row, at), (_, our_at) in zip(of_it, mine):
            if abs(at - our_at) > 0.25 and len(of_it) == len(mine):
                found.append(f"BCC's time is {at}, ours {our_at}: {row}")
    for a, b in pairs:
        found += difflib.unified_diff(a, b, "BCC", "tcpconnect", lineterm="", n=1)
    return found, sum(map(len, table.values()))


def compare_bytes(group, groups):
    os.makedirs(CGROUP)
    isolated = Client("--netns")
    chosen = Client(ids=UID, cgroup=True, mntns=True)
    others = [chosen, Client(cgroup=True), Client(mntns=True)]
    make_maps(chosen)
    every = combinations(chosen.pid)
    mine = every[group::groups]

    # Python's -u: else BCC's rows overtake its header in a pipe or file.
    bcc = []
    for words in mine:
        bcc.append(Tracer(["/usr/bin/python3", "-u", BCC, *words]))
        bcc[-1].wait_ready()
    ours = [
        [Tracer(["--attach", rung, *words], ours=True) for rung in RUNGS]
        for words in mine
    ]
    for tracer in itertools.chain(*ours):
        tracer.wait_ready()
    peers = {}
    if group == 0:
        for name in ("libbpf-tools", "bpftrace"):
            peers[name] = Tracer(PEERS[name])
            peers[name].wait_ready()

    tracers = [*bcc, *peers.values(), *itertools.chain(*ours)]
    for tracer in tracers:
        tracer.wait_idle()
    rows = workload(isolated, others)
    for tracer in tracers:
        tracer.wait_idle()
    for tracer in tracers:
        tracer.interrupt()
    for name, tracer in peers.items():
        text = tracer.printed().decode(errors="replace")
        seen = len(re.findall(r"^.*(?:127\.|::|fe80).*$", text, re.M))
        result("rows", name, seen, rows)
    for number, (words, theirs, mine_of_it) in enumerate(zip(mine, bcc, ours)):
        printed = theirs.printed()
        name = " ".join(words) or "(no option)"
        lost = read(theirs.err)
        if lost:
            say(f"BCC {name}: {lost.decode(errors='replace')}")
        for rung, tracer in zip(RUNGS, mine_of_it):
            found, same = differences(printed, tracer.printed(), words, rung)
            if not words and same != rows:
                found.append(f"BCC printed {same} of {rows} rows")
            if same == 0:
                found.append("no row to compare")
            if "-d" in words and "-6" not in words and b" named.test" not in printed:
                found.append("BCC knows no name")
            warned = read(tracer.err).decode(errors="replace").strip()
            if warned:
                found.append("stderr: " + warned)
            number_of_all = group + number * groups
            result("bytes", number_of_all, len(every), name, rung, same, *found)


# ---- cost -------------------------------------------------------------------


def tools():
    """(name, words, whether ours)"""
    for name, argv in PEERS.items():
        yield name, argv, False
    for rung, buffer in itertools.product(RUNGS, BUFFERS):
        yield f"{rung} {buffer}", ["--attach", rung, "--buffer", buffer], True
    for options in OPTIONS:
        yield options, options.split(), True


def chosen(wanted):
    """All, or those with these names; other words are options of ours."""
    every = list(tools())
    if not wanted:
        return every
    named = {tool[0]: tool for tool in every}
    return [named.get(name, (name, name.split(), True)) for name in wanted]


LONE, HOOK, STORM, ROUNDS = 60, 100, 1500, 7


def lone(client):
    """One connect after 20 ms of nothing, with all it wakes."""
    taken = []
    for _ in range(LONE):
        time.sleep(0.02)
        taken.append(client.storm(1))
    return statistics.median(taken)


def rounds(client, connects, before=None, after=None):
    taken = []
    for _ in range(ROUNDS):
        if before:
            before()
        taken.append(client.storm(connects) / connects)
        if after:
            after()
    return statistics.median(taken)


def read_disk():
    """Into memory, so that no start waits for the disk."""
    for directory, _, files in itertools.chain(os.walk("/usr"), os.walk("/lib/modules")):
        for name in files:
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                read(path)


def cost(wanted):
    """Under -icount, a nanosecond of the guest's clock is one instruction."""
    read_disk()
    client = Client()
    client.storm(STORM)
    for name, argv, ours in chosen(wanted):
        base = {
            "quiet": lone(client),
            "hook": rounds(client, HOOK),
            "storm": rounds(client, STORM),
        }
        starts, spent = [], []
        for _ in range(1 if name in ("BCC", "bpftrace") else 3):
            if starts:
                tracer.stop()
            tracer = Tracer(argv, ours)
            starts.append(tracer.wait_ready())
            spent.append(tracer.cpu())
            tracer.wait_idle()
        result("cost", name, "start", int(statistics.median(starts) * 1e9))
        result("cost", name, "start_cpu", int(statistics.median(spent)))

        before = tracer.cpu()
        added = {"quiet": lone(client)}
        tracer.wait_idle()
        result("cost", name, "cpu_quiet", (tracer.cpu() - before) // LONE)

        # The reader is stopped and the buffer empty: what the hook does alone.
        def pause():
            tracer.send(signal.SIGSTOP)
            time.sleep(0.05)

        def proceed():
            tracer.send(signal.SIGCONT)
            tracer.wait_idle()

        added["hook"] = rounds(client, HOOK, pause, proceed)

        before = tracer.cpu()
        added["storm"] = rounds(client, STORM, None, tracer.wait_idle)
        result("cost", name, "cpu_storm", (tracer.cpu() - before) // (STORM * ROUNDS))
        for kind, value in added.items():
            result("cost", name, kind, int(value - base[kind]))
            result("cost", "base", kind, int(base[kind]))
        result("cost", name, "peak_kb", tracer.status("VmHWM"))
        result("cost", name, "rss_kb", tracer.status("VmRSS"))
        tracer.stop()


def loss():
    connects = 200_000
    client = Client()
    for name, argv, ours in tools():
        tracer = Tracer(argv, ours)
        tracer.wait_ready()
        client.storm(connects, 2)
        tracer.wait_idle()
        text = tracer.stop().decode(errors="replace")
        said = text + read(tracer.err).decode(errors="replace")
        printed = sum("127.0.0.1" in line for line in text.splitlines())
        if ours:
            told = sum(int(n) for n in re.findall(r"(\d+) lost:", said))
        else:
            told = sum(int(n) for n in re.findall(r"[Ll]ost (\d+) ", said))
        result("loss", name, connects, connects - printed, told)
        os.unlink(tracer.out)


# ---- size -------------------------------------------------------------------


def size():
    """KiB that dpkg gives for what a package needs beyond Essential packages."""
    form = "${Package}\t${Essential}\t${Installed-Size}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    listing = subprocess.run(
        ["/usr/bin/dpkg-query", "-W", "-f", form],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    sizes, needs, provides, essential = {}, {}, {}, []

    def names(field):
        for clause in field.split(","):
            for choice in clause.split("|"):
                name = re.match(r"\s*([a-z0-9][a-z0-9+.-]*)", choice)
                if name:
                    yield name[1]

    for line in listing.splitlines():
        name, vital, kib, depends, provided = line.split("\t")
        sizes[name], needs[name] = int(kib or 0), list(names(depends))
        for virtual in names(provided):
            provides.setdefault(virtual, name)
        if vital == "yes":
            essential.append(name)

    def closure(start):
        found, todo = set(), list(start)
        while todo:
            name = todo.pop()
            name = name if name in sizes else provides.get(name)
            if name and name not in found:
                found.add(name)
                todo += needs[name]
        return found

    base = closure(essential)
    # BCC compiles against the headers, but needs no compiler of their kind.
    headers = {name for name in sizes if name.startswith("linux-headers-")}
    for name, package, more in (
        ("BCC", ["bpfcc-tools"], headers),
        ("libbpf-tools", ["libbpf-tools"], set()),
        ("bpftrace", ["bpftrace", "libc6-dev"], set()),
        ("ours", ["libelf1", "zlib1g", "libgcc-s1", "libc6"], set()),
    ):
        total = sum(sizes[p] for p in (closure(package) | more) - base)
        if name == "ours":
            total += os.stat("tcpconnect", dir_fd=HOST).st_size // 1024
        result("size", name, total)
    # One program of libbpf-tools' many, and its library.
    alone = os.stat(PEERS["libbpf-tools"][0]).st_size // 1024
    result("size", "libbpf-tools alone", alone + sizes["libelf1"])


def main():
    match sys.argv[1:]:
        case ["bytes", group, groups]:
            compare_bytes(int(group), int(groups))
        case ["cost", *wanted]:
            cost(wanted)
        case ["loss"]:
            loss()
        case ["size"]:
            size()
        case _:
            sys.exit("usage: see the head of this file")


main()
