# SPDX-License-Identifier: Apache-2.0
"""A program of a host in tests/join.rs, of this name in the process list.

  program.py NAME serve ADDRESS PORT [WORKERS]    answers NAME and pid, until stdin ends
  program.py NAME deaf ADDRESS PORT               listens, and takes nothing
  program.py NAME call ADDRESS PORT [FROM PORT]   one connection; prints the answer
  program.py NAME knock ADDRESS PORT [FROM PORT]  one that wants no answer; prints its error

Those that listen print a line once they do.
"""

import contextlib
import errno
import os
import signal
import socket
import struct
import sys
import threading


def tcp(address):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)


def listen(name, address, port, workers):
    listener = tcp(address)
    listener.bind((address, port))
    listener.listen(64)
    # The first is this process, and the others its children.
    for _ in range(1, workers):
        if os.fork() == 0:
            break
    else:
        print("listens", flush=True)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    while workers:
        with listener.accept()[0] as peer:
            peer.sendall(f"{name} {os.getpid()}\n".encode())
            # The caller ends it, so that no port of this side has to wait.
            with contextlib.suppress(ConnectionResetError):
                peer.recv(1)
    threading.Event().wait()


def call(address, port, source, knock):
    # Nothing here takes a second; a server without an answer is no reason to wait.
    signal.alarm(20)
    with tcp(address) as sock:
        # A reset ends it, and the port is free again at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if source:
            sock.bind(source)
        error = sock.connect_ex((address, port))
        if knock:
            print(errno.errorcode.get(error))
        else:
            print(sock.makefile().readline(), end="")


def main():
    name, what, address, port, *rest = sys.argv[1:]
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
    port = int(port)
    if what in ("call", "knock"):
        call(address, port, (rest[0], int(rest[1])) if rest else None, what == "knock")
    else:
        listen(name, address, port, 0 if what == "deaf" else int(rest[0]) if rest else 1)


main()
