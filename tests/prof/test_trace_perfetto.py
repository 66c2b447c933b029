#!/usr/bin/env python3
"""test_trace_perfetto: a trace file through Perfetto's own protobuf classes.

usage: test_trace_perfetto.py FILE

Every field must be known to Perfetto's definitions and have the type they demand: a message parsed and
written again has the same fields, and no unknown ones.
"""
import sys

try:
    from google.protobuf import unknown_fields
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto
except ImportError as error:
    print(f"skipped: {error} (pip install perfetto protobuf)")
    sys.exit(77)


def check(condition, what):
    if not condition:
        print(what)
        sys.exit(1)


def check_known(message, path):
    """No field, here or below, that Perfetto does not define."""
    unknown = [field.field_number for field in unknown_fields.UnknownFieldSet(message)]
    check(not unknown, f"{path}: unknown fields {unknown}")
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in value if hasattr(value, "append") else [value]:
            check_known(item, f"{path}.{field.name}")


def check_slices(trace):
    """Names resolve; slices nest; returns the numbers of slices by name."""
    event = perfetto.TrackEvent
    names, open_slices, counts = {}, {}, {}
    for packet in trace.packet:
        sequence = packet.trusted_packet_sequence_id
        for name in packet.interned_data.event_names:
            names[sequence, name.iid] = name.name
        if not packet.HasField("track_event"):
            continue
        stack = open_slices.setdefault(packet.track_event.track_uuid, [])
        if packet.track_event.type == event.TYPE_SLICE_BEGIN:
            name = names[sequence, packet.track_event.name_iid]
            stack.append((name, packet.timestamp))
            counts[name] = counts.get(name, 0) + 1
        else:
            check(packet.track_event.type == event.TYPE_SLICE_END, "neither begin nor end")
            check(stack and packet.timestamp >= stack[-1][1], "an end before its begin")
            stack.pop()
    check(not any(open_slices.values()), "slices that never end")
    return counts


def main():
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    trace = perfetto.Trace()
    trace.ParseFromString(data)
    check(trace.ByteSize() == len(data), "not every byte is part of a known field")
    check_known(trace, "Trace")
    counts = check_slices(trace)
    check(counts["group_gemm_main"] == 24, f"tiles: {counts}")
    check(sum(counts.values()) == 56, f"slices: {counts}")
    threads = {
        packet.track_descriptor.thread.thread_name
        for packet in trace.packet
        if packet.track_descriptor.HasField("thread")
    }
    check(threads == {"host", "worker 0", "worker 1"}, f"threads: {threads}")
    print(f"{len(trace.packet)} packets, {sum(counts.values())} slices")


main()
