"""Choosing ports, with real sockets."""

from __future__ import annotations

import socket

import pytest

from placeos.local.ports import Ports, PortTakenError, front_door, is_free


@pytest.fixture
def listener():
    """A server of somebody else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def test_a_port_in_use_is_not_free(listener):
    port = port_of(listener)
    assert not is_free(port)
    listener.close()
    assert is_free(port)


def test_ports_are_remembered_and_never_shared(tmp_path):
    file = tmp_path / "ports.json"
    first = {name: Ports(file).take(name) for name in "abc"}
    assert len(set(first.values())) == 3
    assert {name: Ports(file).take(name) for name in "abc"} == first


def test_a_remembered_port_that_was_taken_is_replaced(tmp_path):
    file = tmp_path / "ports.json"
    port = Ports(file).take("a")
    with socket.create_server(("127.0.0.1", port)):
        other = Ports(file).take("a")
        assert other != port
    assert Ports(file).take("a") == other


def test_an_unreadable_memory_is_forgotten(tmp_path):
    file = tmp_path / "ports.json"
    file.write_text("{")
    assert Ports(file).take("a")


def test_the_front_door_moves_on_when_nobody_asked_for_the_port(listener):
    with front_door(None, port_of(listener), public=False) as port:
        assert port > port_of(listener)


def test_the_front_door_insists_on_a_port_that_was_asked_for(listener):
    wanted = port_of(listener)
    with (
        pytest.raises(PortTakenError, match=f"port {wanted} is taken"),
        front_door(wanted, 8080, public=False),
    ):
        pass


def test_two_that_choose_at_once_choose_differently(listener):
    first = port_of(listener)
    listener.close()
    with front_door(None, first, public=False) as one, front_door(None, first, public=False) as two:
        assert one != two
    with front_door(one, 8080, public=False) as again:
        assert again == one


def test_on_all_interfaces_another_listener_anywhere_counts(listener):
    with (
        pytest.raises(PortTakenError),
        front_door(port_of(listener), 8080, public=True),
    ):
        pass
