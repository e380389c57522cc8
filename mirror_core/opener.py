"""A program: opens a block device as its exclusive user, and sends the descriptor over its output,
a socket; or the errno of why not.  It needs nothing else of ours, so that it begins at once."""

import os
import socket
import sys


def main(path: str) -> None:
    with socket.socket(fileno=os.dup(1)) as to:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
            socket.send_fds(to, [b"0"], [fd])
        except OSError as error:
            to.send(str(error.errno).encode())


if __name__ == "__main__":
    main(sys.argv[1])
