"""Cuts the network off in every Python process that finds this folder on its path.

Connections to this machine itself stay possible: Jupyter kernels talk over loopback.
"""

import ipaddress
import socket


class NetworkCutOff(OSError):
    """The book's tests run without a network."""


def _local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = address[0]
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _guarded(name: str):
    original = getattr(socket.socket, name)

    def call(self: socket.socket, address: object, *rest: object) -> object:
        if not _local(address):
            raise NetworkCutOff(f"{address}: the tests run with the network cut off")
        return original(self, address, *rest)

    return call


_getaddrinfo = socket.getaddrinfo


def _local_getaddrinfo(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if name is not None and not _local((name,)):
        raise NetworkCutOff(f"{name}: the tests run with the network cut off")
    return _getaddrinfo(host, *args, **kwargs)


for _name in ("connect", "connect_ex"):
    setattr(socket.socket, _name, _guarded(_name))
socket.getaddrinfo = _local_getaddrinfo
