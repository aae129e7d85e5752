"""The part of containerd's wire schema that we speak: our own .proto file and what tools/gen_proto.py makes of it.

Never edit a generated module; change the .proto file and run the tool.
"""
