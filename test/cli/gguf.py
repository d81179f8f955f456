"""A GGUF file with one more text in its metadata, for tests that need what small models lack."""

import struct

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
          "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def with_text(source, target, key, value):
    """Copy source to target and give it key = value, which it must not have."""
    with open(source, "rb") as f:
        data = f.read()

    def text(at):
        n, = struct.unpack_from("<Q", data, at)
        return data[at + 8:at + 8 + n], at + 8 + n

    def skip(kind, at):
        if kind == STRING:
            return text(at)[1]
        if kind != ARRAY:
            return at + SIZES[kind]
        inner, n = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner in SIZES:
            return at + n * SIZES[inner]
        for _ in range(n):
            at = skip(inner, at)
        return at

    n_tensors, n_fields = struct.unpack_from("<QQ", data, 8)
    at, alignment = 24, 32
    for _ in range(n_fields):
        name, at = text(at)
        kind, = struct.unpack_from("<I", data, at)
        at += 4
        if name == b"general.alignment":
            alignment, = struct.unpack_from("<I", data, at)
        assert name != key.encode(), key
        at = skip(kind, at)
    for _ in range(n_tensors):
        _, at = text(at)
        n_dims, = struct.unpack_from("<I", data, at)
        at += 4 + 8 * n_dims + 12
    begin = -(-at // alignment) * alignment
    field = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IQ", STRING, len(value)) + value.encode()
    head = data[:16] + struct.pack("<Q", n_fields + 1) + field + data[24:at]
    with open(target, "wb") as f:
        f.write(head + b"\0" * (-len(head) % alignment) + data[begin:])
