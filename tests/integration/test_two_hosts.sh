#!/bin/bash
#
# A scenario of the lab that every run of all tests includes: a guest outlives its host, between two
# machines with an RDMA stack and a KVM of their own.
#
# Alone: its machines need both processors.

exec "${0%/*}/../lab/scenarios/host_killed.sh"
