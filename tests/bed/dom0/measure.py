"""Measures in dom0: `measure COMMAND ARGUMENT...`, one JSON object on standard output.

Times come from dom0's clock, and processor times from Xen's own account of each domain. During a measurement nothing is
written to the shared folder, because an instruction clock jumps while dom0 waits for the host.
"""
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

import xc as bindings

HYPERVISOR = bindings.xc()
BUFFER = bytearray(1 << 18)
ETH_P_ARP = 0x0806


def account():
    """Returns the processor time of each domain, in nanoseconds."""
    return {str(domain["domid"]): domain["cpu_time"] for domain in HYPERVISOR.domain_getinfo(0, 64)}


def measured(action):
    """Runs `action`, and returns its result with the time and the processor time that it took."""
    before, start = account(), time.monotonic_ns()
    result = action()
    end, after = time.monotonic_ns(), account()
    result["ns"] = end - start
    result["cpu"] = {domain: after[domain] - before.get(domain, 0) for domain in after}
    return result


def command(words):
    """Runs a command, and keeps its output in memory. After `--for SECONDS`, interrupts it after this time."""
    seconds = None
    if words[0] == "--for":
        seconds, words = float(words[1]), words[2:]

    def action():
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if seconds is not None:
            time.sleep(seconds)
            child.send_signal(signal.SIGINT)
        while True:
            try:
                output, _ = child.communicate(timeout=None if seconds is None else 0.5)
                break
            except subprocess.TimeoutExpired:
                # wrk sleeps for its whole minute if the interruption came just before its sleep.
                child.send_signal(signal.SIGINT)
        return {"status": child.returncode, "output": output.decode("utf-8", "replace")}
    return measured(action)


class Download:
    """One user: makes a connection and a request, and counts the received bytes."""

    def __init__(self, address, path, expected):
        self.received, self.expected, self.head, self.error = 0, expected, b"", None
        self.start = time.monotonic_ns()
        self.socket = socket.create_connection(address, 5)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        self.socket.setblocking(False)

    def step(self):
        """Reads the available bytes. Returns True if the download has ended."""
        try:
            count = self.socket.recv_into(BUFFER)
        except BlockingIOError:
            return False
        except OSError as error:
            return self.end(str(error))
        if count == 0:
            return self.end(f"closed after {self.received} of {self.expected} bytes")
        if self.received == 0 and b"\r\n\r\n" not in self.head:
            self.head += bytes(BUFFER[:count])
            head, mark, body = self.head.partition(b"\r\n\r\n")
            if not mark:
                return False
            if not head.startswith(b"HTTP/1.1 200 "):
                return self.end(head.split(b"\r\n")[0].decode("latin-1"))
            count = len(body)
        self.received += count
        return self.end(None) if self.received >= self.expected else False

    def end(self, error):
        self.error = error
        if error is None and self.received != self.expected:
            self.error = f"{self.received} of {self.expected} bytes"
        self.ns = time.monotonic_ns() - self.start
        self.socket.close()
        return True


def fetch(address, port, path, expected, users, limit):
    """Lets `users` fetch a file of `expected` bytes at the same time."""
    def action():
        until = time.monotonic() + float(limit)
        running, poll, errors, times, received = {}, select.epoll(), [], [], 0
        for _ in range(int(users)):
            try:
                download = Download((address, int(port)), path, int(expected))
            except OSError as error:
                errors.append(str(error))
                continue
            running[download.socket.fileno()] = download
            poll.register(download.socket.fileno(), select.EPOLLIN)
        while running and time.monotonic() < until:
            for number, _ in poll.poll(1.0):
                download = running[number]
                if download.step():
                    del running[number]
                    received += download.received
                    (errors if download.error else times).append(download.error or download.ns)
        errors += ["not ended in time"] * len(running)
        received += sum(download.received for download in running.values())
        return {"errors": errors, "times": times, "bytes": received}
    return measured(action)


class Upload:
    """One user: makes a connection, sends a request with a body, and waits for the answer."""

    def __init__(self, address, path, size):
        self.left, self.answer, self.error = size, b"", None
        self.start = time.monotonic_ns()
        self.socket = socket.create_connection(address, 5)
        self.socket.sendall(f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {size}\r\n\r\n".encode())
        self.socket.setblocking(False)

    def events(self):
        return select.EPOLLIN | (select.EPOLLOUT if self.left else 0)

    def step(self, events):
        """Writes and reads as much as possible. Returns True if the upload has ended."""
        try:
            if events & select.EPOLLOUT and self.left:
                self.left -= self.socket.send(memoryview(BUFFER)[:min(self.left, len(BUFFER))])
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                part = self.socket.recv(65536)
                self.answer += part
                status = self.answer.split(b"\r\n")[0]
                if not part or (b"\r\n\r\n" in self.answer and not status.startswith(b"HTTP/1.1 2")):
                    return self.end(f"answered {status.decode('latin-1')!r} with {self.left} bytes to send")
            if not self.left and b"\r\n\r\n" in self.answer:
                return self.end(None)
        except BlockingIOError:
            pass
        except OSError as error:
            return self.end(str(error))
        return False

    def end(self, error):
        self.error, self.ns = error, time.monotonic_ns() - self.start
        self.socket.close()
        return True


def send(address, port, path, size, users, limit):
    """Lets `users` send a body of `size` bytes at the same time."""
    def action():
        until = time.monotonic() + float(limit)
        running, poll, errors, times = {}, select.epoll(), [], []
        for _ in range(int(users)):
            try:
                upload = Upload((address, int(port)), path, int(size))
            except OSError as error:
                errors.append(str(error))
                continue
            running[upload.socket.fileno()] = upload
            poll.register(upload.socket.fileno(), upload.events())
        while running and time.monotonic() < until:
            for number, events in poll.poll(1.0):
                upload = running[number]
                if upload.step(events):
                    del running[number]
                    (errors if upload.error else times).append(upload.error or upload.ns)
                elif not upload.left:
                    poll.modify(number, upload.events())
        errors += ["not ended in time"] * len(running)
        return {"errors": errors, "times": times}
    return measured(action)


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def echo(number):
    """Returns an ICMP echo request."""
    def packet(check):
        return struct.pack(">BBHHH", 8, 0, check, 0x4242, number) + bytes(56)
    return packet(checksum(packet(0)))


def first(address, mac, limit, words, requests=("ping", "http")):
    """Runs a command, and returns when a guest sent its first frame of ARP, answered a ping, and sent the first byte of an HTTP
    answer, with the processor time of each domain when the frame came. If `requests` is empty, only the frame is measured.

    New pings and connections are tried every millisecond, but for at most a tenth of the time. TCP's own repetitions would
    come seconds apart. The limit is needed because the bridge floods packets for an absent guest to all others, and the
    toolstack shares dom0's processor.
    """
    def action():
        start = time.monotonic()
        until = start + float(limit)
        result = {"errors": []}
        create = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        ping = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        ping.setblocking(False)
        frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
        frames.setblocking(False)
        poll, tries, number, due = select.epoll(), {}, 0, start
        poll.register(ping, select.EPOLLIN)
        poll.register(frames, select.EPOLLIN)
        wanted = requests or ("frame",)
        while time.monotonic() < until and not set(wanted) <= result.keys():
            if "create" not in result and create.poll() is not None:
                result["create"] = time.monotonic() - start
                if create.returncode:
                    result["errors"].append(create.stdout.read().decode("utf-8", "replace"))
                    break
            now = time.monotonic()
            if now >= due:
                number = number + 1 & 0xFFFF
                if "ping" in requests and "ping" not in result:
                    try:
                        ping.sendto(echo(number), (address, 0))
                    except OSError:
                        pass
                if "http" in requests and "http" not in result:
                    attempt(poll, tries, address)
                due = now + max(0.001, 10 * (time.monotonic() - now))
            for ready, events in poll.poll(max(0, due - time.monotonic())):
                if ready == frames.fileno():
                    if frames.recv(64)[6:12] == bytes.fromhex(mac.replace(":", "")) and "frame" not in result:
                        result.update(frame=time.monotonic() - start, frame_cpu=account())
                elif ready == ping.fileno():
                    packet = ping.recv(2048)
                    if packet[20] == 0 and packet[12:16] == socket.inet_aton(address):
                        result.setdefault("ping", time.monotonic() - start)
                elif progress(poll, tries, ready, events):
                    result.setdefault("http", time.monotonic() - start)
        for connection in tries.values():
            connection.close()
        create.wait()
        result.setdefault("create", time.monotonic() - start)
        for kind in wanted:
            if kind not in result and not result["errors"]:
                result["errors"].append(f"no {kind} in {limit} s")
        return result
    return measured(action)


def attempt(poll, tries, address):
    """Begins one more connection. Closes the oldest if there are 64."""
    if len(tries) >= 64:
        oldest = next(iter(tries))
        tries.pop(oldest).close()
    connection = socket.socket()
    connection.setblocking(False)
    # Close by a reset, without TIME_WAIT: the guest does not keep the many connections of this poll.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if connection.connect_ex((address, 80)) != errno.EINPROGRESS:
        connection.close()
        return
    tries[connection.fileno()] = connection
    poll.register(connection.fileno(), select.EPOLLOUT)


def progress(poll, tries, number, events):
    """Continues one attempt. Returns True if the first byte of an answer came."""
    connection = tries.get(number)
    if connection is None:
        return False
    try:
        if events & select.EPOLLIN:
            if connection.recv(1):
                return True
        elif events == select.EPOLLOUT:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            poll.modify(number, select.EPOLLIN)
            return False
    except OSError:
        pass
    tries.pop(number).close()
    return False


def hold(address, port, path, count, words):
    """Runs a command while `count` connections are held, each idle after one request."""
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    held, errors = [], []
    for _ in range(int(count)):
        connection = socket.socket()
        connection.settimeout(5)
        try:
            connection.connect((address, int(port)))
            connection.sendall(request)
            if not connection.recv(65536).startswith(b"HTTP/1.1 200 "):
                raise OSError("no 200")
        except OSError as error:
            errors.append(str(error))
            connection.close()
            if len(errors) >= 5:
                break
            continue
        held.append(connection)
    result = command(words)
    for connection in held:
        connection.setblocking(False)
    alive = 0
    for connection in held:
        try:
            alive += bool(connection.recv(1))
        except BlockingIOError:
            alive += 1
        except OSError:
            pass
        connection.close()
    result.update(held=len(held), alive=alive, errors=errors[:5])
    return result


def main(words):
    actions = {
        "run": lambda *rest: command(rest),
        "fetch": fetch,
        "send": send,
        "first": lambda address, mac, limit, *rest: first(address, mac, limit, rest),
        "frame": lambda address, mac, limit, *rest: first(address, mac, limit, rest, ()),
        "hold": lambda address, port, path, count, *rest: hold(address, port, path, count, rest),
    }
    print(json.dumps(actions[words[0]](*words[1:])))


main(sys.argv[1:])
