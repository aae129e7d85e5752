"""The part of etcd's wire schema that the store speaks: our own .proto file and what tools/gen_proto.py makes of it.

Never edit a generated module; change the .proto file and run the tool. The wire package is `etcdserverpb`, so the paths
of the calls are those of etcd (`/etcdserverpb.KV/Range`).
"""
