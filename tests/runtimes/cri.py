# SPDX-License-Identifier: Apache-2.0
"""Makes and removes pods by containerd's CRI, as a kubelet does.

cri.py SOCKET pod NAMESPACE POD                     prints the id of its sandbox
cri.py SOCKET run ID NAMESPACE POD NAME IMAGE WORD...  starts a container in it, prints its id
cri.py SOCKET remove ID
"""

import sys

import grpc

# NamespaceMode of api.proto: the host's.
NODE = 2


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def message(*fields):
    """Of pairs of a number and what it is: a number, a text or a message. Those of
    api.proto, kubernetes/cri-api, package runtime.v1."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def first_text(answer):
    """The answers that are looked at begin with an id."""
    return answer[2 : 2 + answer[1]].decode()


def ask(channel, method, request):
    call = channel.unary_unary(
        f"/runtime.v1.RuntimeService/{method}",
        request_serializer=bytes,
        response_deserializer=bytes,
    )
    return call(request, timeout=60)


def sandbox(namespace, pod):
    metadata = message((1, pod), (2, f"uid-of-{pod}"), (3, namespace))
    of_host = message((1, message((1, NODE), (2, 1), (3, NODE))))
    # Without a host name: that of the host is the pod's, as its network is.
    return message((1, metadata), (8, message((2, of_host))))


def main(socket, what, *words):
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        if what == "pod":
            answer = ask(channel, "RunPodSandbox", message((1, sandbox(*words))))
            print(first_text(answer))
        elif what == "run":
            sandbox_id, namespace, pod, name, image, *command = words
            security = message((2, message((3, message((1, NODE), (2, 1), (3, NODE))))))
            config = message(
                (1, message((1, name))),
                (2, message((1, image))),
                *((3, word) for word in command),
                (15, security),
            )
            request = message((1, sandbox_id), (2, config), (3, sandbox(namespace, pod)))
            container = first_text(ask(channel, "CreateContainer", request))
            ask(channel, "StartContainer", message((1, container)))
            print(container)
        else:
            (sandbox_id,) = words
            ask(channel, "StopPodSandbox", message((1, sandbox_id)))
            ask(channel, "RemovePodSandbox", message((1, sandbox_id)))


main(*sys.argv[1:])
