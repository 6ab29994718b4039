"""The messages of Sparkplug B as far as readings need them, built when they are first needed.

From the Eclipse Sparkplug 3.0 specification, section 6.4: the same field numbers, so the same bytes. The
schema is described here and not generated, since generated code is tied to versions of protobuf.
What is left out (data sets, templates, metadata) is skipped as unknown fields are.
"""

from __future__ import annotations

from typing import Any, Final

_TYPES: Final = {
    "double": 1, "float": 2, "uint64": 4, "bool": 8, "string": 9, "message": 11, "bytes": 12, "uint32": 13,
}  # fmt: skip
_FIELDS: Final = {
    "PropertyValue": [
        ("type", 1, "uint32"), ("is_null", 2, "bool"),
        ("int_value", 3, "uint32"), ("long_value", 4, "uint64"),
        ("float_value", 5, "float"), ("double_value", 6, "double"),
        ("boolean_value", 7, "bool"), ("string_value", 8, "string"),
    ],
    "PropertySet": [("keys", 1, "string*"), ("values", 2, "PropertyValue*")],
    "Metric": [
        ("name", 1, "string"), ("alias", 2, "uint64"), ("timestamp", 3, "uint64"),
        ("datatype", 4, "uint32"), ("is_historical", 5, "bool"), ("is_transient", 6, "bool"),
        ("is_null", 7, "bool"), ("properties", 9, "PropertySet"),
        ("int_value", 10, "uint32"), ("long_value", 11, "uint64"),
        ("float_value", 12, "float"), ("double_value", 13, "double"),
        ("boolean_value", 14, "bool"), ("string_value", 15, "string"), ("bytes_value", 16, "bytes"),
    ],
    "Payload": [
        ("timestamp", 1, "uint64"), ("metrics", 2, "Metric*"), ("seq", 3, "uint64"),
        ("uuid", 4, "string"), ("body", 5, "bytes"),
    ],
}  # fmt: skip
_OPTIONAL, _REPEATED = 1, 3
_PACKAGE: Final = "atoll.sparkplug"


def payload_class() -> Any:
    """Return the class of a Sparkplug payload.

    Raises:
        ImportError: protobuf is not installed: ``pip install 'atoll[dialects]'``.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: PLC0415 - an extra

    file = descriptor_pb2.FileDescriptorProto(
        name="atoll/sparkplug_b.proto", package=_PACKAGE, syntax="proto2"
    )
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            base = kind.rstrip("*")
            field = described.field.add(name=name, number=number)
            field.label = _REPEATED if kind.endswith("*") else _OPTIONAL
            field.type = _TYPES.get(base, _TYPES["message"])
            if base not in _TYPES:
                field.type_name = f".{_PACKAGE}.{base}"
    # A pool of its own: what else uses protobuf in this process does not see it.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))
