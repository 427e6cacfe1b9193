"""A gRPC client that knows only the reflection service: ADDRESS DEVICE. Prints the latest state as JSON."""

import sys

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

address, device = sys.argv[1:]
channel = grpc.insecure_channel(address)
database = ProtoReflectionDescriptorDatabase(channel)
assert "weir.v1.TelemetryService" in database.get_services(), database.get_services()
pool = DescriptorPool(database)
method = pool.FindServiceByName("weir.v1.TelemetryService").FindMethodByName("BatchGetLatest")
request_class = message_factory.GetMessageClass(method.input_type)
response_class = message_factory.GetMessageClass(method.output_type)
call = channel.unary_unary(
    "/weir.v1.TelemetryService/BatchGetLatest",
    request_serializer=request_class.SerializeToString,
    response_deserializer=response_class.FromString,
)
request = json_format.ParseDict(
    {"parent": "tenants/-", "selector": {"devices": [f"tenants/-/devices/{device}"]}}, request_class()
)
print(json_format.MessageToJson(call(request, timeout=10)))
