"""All processes of a run meet before JAX starts: who does not come, or comes twice, is named.

JAX's own start ends the whole process, without an exception, where one is missing. So process 0
first listens at the coordinator's address itself until everybody has called, then leaves the port
to JAX.
"""

import contextlib
import json
import socket
import time

KNOCK_S = 0.2  # between two calls at a door that is still closed


def host(port: int, count: int, deadline: float, address: str) -> None:
    """Process 0: returns when all others have called, at most at `deadline` (monotonic seconds).

    Raises:
      ValueError: the port is taken; processes are missing, or one says what cannot be. The others
        raise the same.
    """
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("", port))
            door.listen(count)
        except OSError as error:
            raise ValueError(
                f"process 0 cannot listen on port {port} of the coordinator {address}: "
                f"{error.strerror}. Is a run from before still there? End it, or choose another "
                "port for all processes"
            ) from None
        callers: dict[int, socket.socket] = {}
        with contextlib.ExitStack() as open_:
            wrong = None
            while len(callers) < count - 1 and wrong is None:
                door.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    caller = open_.enter_context(door.accept()[0])
                    caller.settimeout(5)
                    said = json.loads(_line(caller))
                    index, total = int(said["process"]), int(said["processes"])
                except TimeoutError:
                    if time.monotonic() < deadline:
                        continue  # one that says nothing
                    missing = sorted(set(range(1, count)) - set(callers))
                    named = ", ".join(map(str, missing))
                    wrong = f"of {count} processes {named} did not call at {address} in time"
                    continue
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # not one of ours
                if total != count:
                    wrong = f"process {index} says there are {total} processes, process 0 {count}"
                elif index in callers or not 0 < index < count:
                    wrong = f"two processes say that they are process {index} of {count}"
                else:
                    callers[index] = caller
                    continue
                callers[-1] = caller
            answer = json.dumps({"wrong": wrong}) + "\n"
            for caller in callers.values():
                with contextlib.suppress(OSError):
                    caller.sendall(answer.encode())
    if wrong:
        raise ValueError(_advice(wrong))


def call(name: str, port: int, index: int, count: int, deadline: float) -> None:
    """Another process: returns when all are there.

    Raises:
      ValueError: process 0 does not answer by `deadline`, or says what is wrong.
    """
    while True:
        try:
            with socket.create_connection((name, port), timeout=5) as line:
                said = {"process": index, "processes": count}
                line.sendall((json.dumps(said) + "\n").encode())
                line.settimeout(max(1.0, deadline + 5 - time.monotonic()))
                answer = _line(line)
                if answer:
                    wrong = json.loads(answer)["wrong"]
                    break
                problem: Exception | str = "it hung up"
        except OSError as error:
            problem = error
        if time.monotonic() > deadline:
            raise ValueError(
                f"process {index} of {count} cannot reach the coordinator, process 0 at "
                f"{name}:{port}: {problem}. Did process 0 start, is this its address, and may the "
                "machines connect on this port?"
            )
        time.sleep(KNOCK_S)
    if wrong:
        raise ValueError(_advice(wrong))


def _advice(wrong: str) -> str:
    return f"{wrong}: start as many processes as there should be, each with a number of its own"


def _line(connection: socket.socket) -> str:
    """Text up to the first newline; what came, where the other side hung up before."""
    said = b""
    while not said.endswith(b"\n") and len(said) < 1000:
        part = connection.recv(1000)
        if not part:
            break
        said += part
    return said.decode()
