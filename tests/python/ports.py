"""A port for a program that cannot be asked which one it took."""

import socket


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
